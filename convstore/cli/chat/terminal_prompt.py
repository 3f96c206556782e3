"""The prompt on a terminal: history, editing, completion, and the status line below it."""

from __future__ import annotations

import sys
from collections.abc import Callable

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import Completer
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import completion_is_selected, is_searching, vi_navigation_mode
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style

from convstore.cli.chat.editing_mode import find_editing_mode
from convstore.cli.exit_codes import report_error
from convstore.cli.options.text_editor import EditorFailed, open_editor
from convstore.cli.render.output_streams import has_colours

_PROMPT = "> "
_STYLE = Style.from_dict({"prompt": "bold", "bottom-toolbar": "noreverse", "bottom-toolbar.text": "fg:ansibrightblack"})
_PLAIN_STYLE = Style.from_dict({"bottom-toolbar": "noreverse"})


class TerminalPrompt:
    """Reads messages from a person.

    Enter sends the message; Alt-Enter, and Enter after a backslash, begin a new line. A paste stays one message.

    Args:
        describe_status: returns the status line for a number of columns.
    """

    def __init__(self, history: History, completer: Completer, describe_status: Callable[[int], str]) -> None:
        # On stderr, where notes are written: stdout has replies alone.
        self._is_first = True
        output = create_output(stdout=sys.stderr)
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", _PROMPT)],
            multiline=True,
            prompt_continuation=" " * len(_PROMPT),
            history=history,
            completer=completer,
            complete_while_typing=False,
            editing_mode=EditingMode.VI if find_editing_mode() == "vi" else EditingMode.EMACS,
            key_bindings=_make_key_bindings(),
            enable_suspend=True,
            search_ignore_case=True,
            bottom_toolbar=lambda: describe_status(output.get_size().columns),
            style=_STYLE if has_colours(sys.stderr) else _PLAIN_STYLE,  # prompt_toolkit honours NO_COLOR too
            reserve_space_for_menu=6,
            output=output,
        )

    def read(self) -> str:
        """Return the next message.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            EOFError: Ctrl-D at an empty prompt.
        """
        sys.stdout.flush()
        if not self._is_first:
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._is_first = False
        return self._session.prompt().rstrip("\n")  # as a paste ends


async def _edit_buffer(buffer: Buffer) -> None:
    """Replace what is typed by what the user's editor makes of it."""
    changed = await run_in_terminal(lambda: _edit_text(buffer.text), in_executor=True)
    buffer.document = Document(changed, len(changed))


def _edit_text(text: str) -> str:
    try:
        return open_editor(text, ".md", result="the message stays as it was")
    except EditorFailed as error:
        report_error(error)
        return text


def _make_key_bindings() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=completion_is_selected & ~is_searching)
    def _take_completion(event: KeyPressEvent) -> None:
        event.current_buffer.complete_state = None

    @keys.add("enter", filter=~completion_is_selected & ~is_searching)
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.char_before_cursor == "\\" and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=~is_searching)
    def _begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-x", "c-e")
    @keys.add("v", filter=vi_navigation_mode)
    def _open_editor(event: KeyPressEvent) -> None:
        event.app.create_background_task(_edit_buffer(event.current_buffer))

    return keys
