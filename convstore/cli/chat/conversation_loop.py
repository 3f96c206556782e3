"""Read messages and commands, and answer each, until the chat is left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from signal import SIGINT
from typing import Protocol

import click

from convstore.cli.chat.chat_session import ChatSession
from convstore.cli.chat.slash_commands import LeaveChat, name_slash_commands, run_slash_command, steers_next_message
from convstore.cli.chat.typed_ahead import release_keys
from convstore.cli.exit_codes import report_error
from convstore.cli.render.output_streams import rephrase_notes, write_note, write_terminal_note
from convstore.errors import ConvstoreError

_STOPPED = 128 + SIGINT


class Prompt(Protocol):
    """Reads what a person types, or what a pipe brings."""

    def read(self) -> str: ...


def run_chat(session: ChatSession, prompt: Prompt) -> int:
    """Answer messages until there are no more, and return the exit code.

    An error is printed, and the chat goes on. What is typed on a terminal ends with 0; what a pipe brings, with the
    code of the first error. A pipe is left at a command that fails, if the next message would go to the wrong place.
    """
    with rephrase_notes(name_slash_commands):
        code = _answer_all(session, prompt)
    _leave(session)
    return 0 if sys.stdin.isatty() else code


def _answer_all(session: ChatSession, prompt: Prompt) -> int:
    code = 0
    while True:
        try:
            text = prompt.read()
        except EOFError:
            return code
        except KeyboardInterrupt:
            write_terminal_note("(Ctrl-D leaves the chat)")
            continue
        except SystemExit as end:  # Ctrl-C where the terminal makes a signal of it
            if end.code != _STOPPED or not sys.stdin.isatty():
                raise
            write_terminal_note("")
            continue
        except click.ClickException as error:
            code = code or report_error(error)
            continue
        try:
            failed = _answer(session, text)
        except LeaveChat:
            return code
        if failed and not sys.stdin.isatty() and _is_command(text) and steers_next_message(text[1:]):
            write_note(f"stopped at {text.split(maxsplit=1)[0]:.40}: what follows would go to the wrong place")
            return failed
        code = code or failed


def _answer(session: ChatSession, text: str) -> int:
    """Say a message or run a command, and return the exit code that it would have as a command of its own."""
    if not text.strip() and not session.next.attached:
        return _attempt(session.show_news)
    if _is_command(text):
        with release_keys():
            return _attempt(lambda: run_slash_command(session, text[1:]))
    return _attempt(lambda: session.say(text.removeprefix("/") if text.startswith("//") else text))


def _is_command(text: str) -> bool:
    return text.startswith("/") and not text.startswith("//")


def _attempt(act: Callable[[], object]) -> int:
    """Do something; print an error as one line. Return its exit code, 0 if there was none."""
    try:
        act()
    except LeaveChat:
        raise
    except SystemExit as end:
        if end.code != _STOPPED:  # SIGTERM, SIGHUP
            raise
        return _STOPPED
    except (ConvstoreError, click.ClickException, click.Abort, click.exceptions.Exit, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        return report_error(error)
    return 0


def _leave(session: ChatSession) -> None:
    """Leave the chat, and say on a terminal how to come back."""
    session.leave()
    if session.conversation is not None:
        write_terminal_note(f"(convstore chat {session.conversation.id} comes back)")
