"""What the commands of a chat do that the command line does not have."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convstore.cli.chat.status_line import describe_status
from convstore.cli.options.attach_option import read_attachments
from convstore.cli.options.conversation_option import find_conversation, pick_listed
from convstore.cli.options.text_input import read_text_or_file
from convstore.cli.render.conversation_picker import can_pick
from convstore.cli.render.conversation_text import describe_conversation
from convstore.cli.render.message_output import print_message
from convstore.cli.render.output_streams import make_one_line, write_answer, write_note, write_terminal_note
from convstore.cli.render.terminal_table import get_width
from convstore.cli.render.text_width import count_columns, cut_line, pad_line, wrap_line

if TYPE_CHECKING:
    from convstore.cli.chat.chat_session import ChatSession

_SHOWN_MESSAGES = 2
_LISTED_CONVERSATIONS = 10


_KEYS = (
    "Enter sends, Alt-Enter begins a new line, Ctrl-C stops a reply, Ctrl-R searches what you said before, Ctrl-X "
    "Ctrl-E opens your editor, Tab completes a command, Ctrl-D leaves. // begins a message with a slash."
)


class LeaveChat(Exception):
    """The person leaves the chat."""


class SlashError(click.ClickException):
    """A command of the chat was used wrongly."""

    exit_code = 2


def leave(_: ChatSession, __: str) -> None:
    """Leave the chat."""
    raise LeaveChat


def begin_new(session: ChatSession, _: str) -> None:
    """Let the next message start a new conversation."""
    session.begin_new()
    write_terminal_note("(the next message starts a new conversation)")


def open_conversation(session: ChatSession, typed: str) -> None:
    """Go on with another conversation, and show where it is."""
    reference = typed or choose_conversation(session)
    if reference is None:
        return
    session.open(find_conversation(session.store, reference))
    show_place(session)


def choose_conversation(session: ChatSession) -> str | None:
    """Let the person choose a conversation, and return its id; None if none was chosen."""
    if can_pick():
        try:
            return pick_listed(session.store).id
        except click.Abort:
            return None
    for conversation in session.store.list(limit=_LISTED_CONVERSATIONS):
        write_answer(cut_line(make_one_line(describe_conversation(conversation)), get_width()))
    write_note("/open REF opens one of them")
    return None


def show_place(session: ChatSession, *, is_named: bool = False) -> None:
    """Print on a terminal which conversation the chat is in, and its last messages.

    Args:
        is_named: whether the conversation was named just before.
    """
    if session.conversation is None or not sys.stdin.isatty():
        return
    if not is_named:
        write_terminal_note(f"({describe_conversation(session.conversation)})")
    if not sys.stdout.isatty():  # only replies go there
        return
    for record in session.store.messages(session.conversation.id, limit=_SHOWN_MESSAGES):
        print_message(f"{record.position}", record.message, is_plain=session.call.is_plain)
    write_answer("")


def open_fork(session: ChatSession, origin: str, printed: str) -> None:
    """Go on in a new fork, if what `fork` printed names one; print anything else."""
    words = printed.split()
    if len(words) != 1:  # help, or JSON
        write_answer(printed, newline=False)
        return
    session.open(session.store.get(words[0]))
    write_note(f"now in the fork {words[0]}; /open {origin} goes back")


def find_last_question(session: ChatSession) -> int:
    """Return the position of the user's last message on the path.

    Raises:
        SlashError: the path has none.
    """
    records = session.store.messages(session.ensure_conversation().id, limit=20)
    questions = [record.position for record in records if record.message["role"] == "user"]
    if not questions:
        raise SlashError("there is no message to edit; /show prints the messages")
    return questions[-1]


def set_system(session: ChatSession, typed: str) -> None:
    """Keep a system message for the next message; without a text, print the one that is in force."""
    if typed:
        session.next.system = read_text_or_file(typed)
        write_terminal_note("(it goes before the next message)")
        return
    found = session.next.system or session.find_system()
    if found is None:
        write_note("no system message; /system TEXT puts one before the next message")
    else:
        write_answer(found)


def attach(session: ChatSession, typed: str) -> None:
    """Keep a file for the next message; without a file, list those that are kept."""
    if typed:
        name = typed if typed.startswith(("http://", "https://")) else str(Path(typed).expanduser())
        read_attachments([name])  # a file that cannot be read is refused now
        session.next.attached.append(name)
    for name in session.next.attached:
        write_note(f"attached: {name}")
    if not session.next.attached:
        write_note("nothing is attached; /attach FILE attaches a file to the next message")


def detach(session: ChatSession, _: str) -> None:
    """Attach nothing to the next message."""
    session.next.attached.clear()


def list_models(session: ChatSession) -> None:
    """Print the models that the provider offers, one a line, and mark the present one."""
    names = session.list_models()
    for name in names:
        write_answer(make_one_line(f"{'*' if name == session.model else ' '} {name}"))
    if not names:
        write_note("the server lists no models; /model MODEL takes any name")


def print_status(session: ChatSession, _: str) -> None:
    """Print the status line."""
    write_answer(describe_status(session, get_width()))


def print_overview(commands: Mapping[str, tuple[str, str]]) -> None:
    """Print each command with its arguments and its help, and the keys."""
    forms = {name: f"/{name} {usage}".rstrip() for name, (usage, _) in commands.items()}
    width = get_width()
    left = min(max(map(count_columns, forms.values())) + 2, width // 2)
    for name, (_, summary) in commands.items():
        form = forms[name]
        first, *rest = wrap_line(summary, width - left - 1)
        if count_columns(form) + 2 > left:
            write_answer(form)
            form = ""
        for line in (pad_line(form, left) + first, *(" " * left + line for line in rest)):
            write_answer(line)
    write_answer("")
    for line in wrap_line(_KEYS, width - 1):
        write_answer(line)


def print_command_help(name: str, usage: str, summary: str) -> None:
    """Print what a command does."""
    write_answer(f"/{name} {usage}".rstrip() + f"\n  {summary}")


@contextmanager
def capture_stdout() -> Iterator[io.StringIO]:
    """Collect what is printed to stdout in this block."""
    before, captured = sys.stdout, io.StringIO()
    sys.stdout = captured
    try:
        yield captured
    finally:
        sys.stdout = before
