"""Let a person choose a conversation on the terminal.

Typing filters the list; the last messages of the marked conversation are shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import click

from convstore.cli.render.output_streams import (
    format_local_time,
    has_colours,
    make_one_line,
    neutralise,
    write_terminal_note,
)
from convstore.cli.render.text_width import cut_line, pad_line

if TYPE_CHECKING:
    from prompt_toolkit.data_structures import Point
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from convstore.values.results import Conversation, MessageRecord

_PREVIEWED_MESSAGES = 4
_MAX_PREVIEWED_CHARACTERS = 600  # of a message
_ID_WIDTH = 14
_MIN_WIDTH_WITH_TIME = 60  # columns
_KEYS_HINT = "Enter chooses · Esc leaves · type to filter"

ReadMessages = Callable[[str], "list[MessageRecord]"]
"""Returns the last messages of a conversation, by its id."""


def can_pick() -> bool:
    """Return True if a person can type, and sees what is written to stderr."""
    return sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def pick_conversation(
    conversations: Sequence[Conversation], read_messages: ReadMessages | None, question: str
) -> Conversation:
    """Let the user choose a conversation; the screen is then as before.

    Args:
        conversations: those to choose from; at least one.
        read_messages: reads what the preview shows; None: there is no preview.
        question: what is asked, in a few words.

    Raises:
        click.Abort: the user left without a choice.
    """
    picker = _Picker(conversations, read_messages, question)
    chosen = picker.run()
    if chosen is None:
        raise click.Abort
    write_terminal_note(f"({make_one_line(' · '.join(filter(None, (chosen.id, chosen.name, chosen.title))))})")
    return chosen


class _Picker:
    """The state of a choice: what is typed, and which line is marked."""

    def __init__(
        self, conversations: Sequence[Conversation], read_messages: ReadMessages | None, question: str
    ) -> None:
        self._lines = [(conversation, _make_searched_text(conversation)) for conversation in conversations]
        self._found = list(conversations)
        self._marked = 0
        self._question = question
        self._preview = lru_cache(maxsize=64)(lambda id: _format_preview(read_messages, id))
        self._has_preview = read_messages is not None

    def run(self) -> Conversation | None:
        """Ask, and return the choice; None if the user left."""
        from prompt_toolkit.application import Application
        from prompt_toolkit.buffer import Buffer
        from prompt_toolkit.input import create_input
        from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, VSplit, Window
        from prompt_toolkit.layout.dimension import Dimension
        from prompt_toolkit.output import ColorDepth, create_output
        from prompt_toolkit.styles import Style

        typed = Buffer(multiline=False, on_text_changed=lambda buffer: self._filter(buffer.text))
        line = VSplit([Window(FormattedTextControl("> "), width=2), Window(BufferControl(typed), height=1)], height=1)
        listed = Window(
            FormattedTextControl(self._format_list, get_cursor_position=self._find_cursor, show_cursor=False),
            height=Dimension(min=3, weight=3),
        )
        shown = Window(FormattedTextControl(self._format_marked), wrap_lines=True, height=Dimension(min=3, weight=2))
        rows = [Window(FormattedTextControl(self._format_question), height=1), line, listed]
        if self._has_preview:
            rows += [Window(char="─", height=1, style="class:dim"), shown]
        application: Application[Conversation | None] = Application(
            layout=Layout(HSplit(rows), focused_element=typed),
            key_bindings=self._bind_keys(),
            full_screen=True,  # on the terminal's other screen, so that nothing of it stays
            style=Style.from_dict({"dim": "ansibrightblack", "marked": "reverse", "head": "bold"}),
            color_depth=None if has_colours(sys.stderr) else ColorDepth.DEPTH_1_BIT,
            input=create_input(sys.stdin),
            output=create_output(stdout=sys.stderr),
        )
        application.ttimeoutlen = 0.05  # seconds that an Esc waits for the rest of a key's sequence
        return application.run()

    def _filter(self, text: str) -> None:
        words = text.casefold().split()
        self._found = [conversation for conversation, line in self._lines if all(word in line for word in words)]
        self._marked = 0

    def _bind_keys(self) -> KeyBindings:
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()
        for names, step in ((("up", "c-p"), -1), (("down", "c-n", "tab"), 1), (("pageup",), -10), (("pagedown",), 10)):
            for name in names:
                keys.add(name)(self._make_step(step))

        @keys.add("enter")
        def choose(event: KeyPressEvent) -> None:
            if self._found:
                event.app.exit(result=self._found[self._marked])

        @keys.add("escape")
        @keys.add("c-c")
        @keys.add("c-d")
        @keys.add("<sigint>")
        def leave(event: KeyPressEvent) -> None:
            event.app.exit(result=None)

        return keys

    def _make_step(self, step: int) -> Callable[[KeyPressEvent], None]:
        def move(_: KeyPressEvent) -> None:
            self._marked = max(0, min(len(self._found) - 1, self._marked + step))

        return move

    def _format_question(self) -> StyleAndTextTuples:
        count = f" ({len(self._found)} of {len(self._lines)})"
        return [("class:head", self._question), ("class:dim", f"{count} · {_KEYS_HINT}")]

    def _format_list(self) -> StyleAndTextTuples:
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        if not self._found:
            return [("class:dim", "nothing matches")]
        return [
            ("class:marked" if number == self._marked else "", f"{_format_line(conversation, width)}\n")
            for number, conversation in enumerate(self._found)
        ]

    def _find_cursor(self) -> Point:
        from prompt_toolkit.data_structures import Point

        return Point(x=0, y=self._marked)

    def _format_marked(self) -> StyleAndTextTuples:
        return self._preview(self._found[self._marked].id) if self._found else []


def _make_searched_text(conversation: Conversation) -> str:
    parts = (conversation.id, conversation.name, conversation.title, *(f"#{tag}" for tag in conversation.tags))
    return make_one_line(" ".join(part for part in parts if part)).casefold()


def _format_line(conversation: Conversation, width: int) -> str:
    parts = (conversation.name, conversation.title, *(f"#{tag}" for tag in conversation.tags))
    title = make_one_line(" · ".join(part for part in parts if part))
    identity = pad_line(cut_line(make_one_line(conversation.id), _ID_WIDTH), _ID_WIDTH)
    when = f" {format_local_time(conversation.updated_at)} " if width >= _MIN_WIDTH_WITH_TIME else ""
    return cut_line(f"{identity}{when} {title}", max(1, width - 1))


def _format_preview(read_messages: ReadMessages | None, id: str) -> StyleAndTextTuples:
    """Return the last messages of a conversation, the oldest of them first."""
    from convstore.cli.render.message_text import format_message
    from convstore.errors import ConvstoreError

    if read_messages is None:
        return []
    try:
        records = read_messages(id)
    except ConvstoreError as error:
        return [("class:dim", make_one_line(str(error)))]
    found: StyleAndTextTuples = []
    for record in records[-_PREVIEWED_MESSAGES:]:
        text = neutralise(format_message(record.message)).strip()
        is_long = len(text) > _MAX_PREVIEWED_CHARACTERS
        role = make_one_line(str(record.message.get("role", "")))
        found += [("class:head", f"{role}  "), ("", f"{text[:_MAX_PREVIEWED_CHARACTERS]}{'…' if is_long else ''}\n")]
    return found or [("class:dim", "no messages")]
