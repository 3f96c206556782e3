"""Choose how messages are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convstore.cli.chat.chat_session import ChatSession
    from convstore.cli.chat.conversation_loop import Prompt


@contextmanager
def open_prompt(session: ChatSession) -> Iterator[Prompt]:
    """Yield the prompt for this terminal; a plain one where nothing may be redrawn, and for a pipe."""
    if session.call.is_plain or not _is_redrawable():
        from convstore.cli.chat.line_prompt import LinePrompt

        yield LinePrompt()
        return
    # These import prompt_toolkit.
    from convstore.cli.chat.prompt_history import PromptHistory
    from convstore.cli.chat.slash_completion import SlashCompleter
    from convstore.cli.chat.status_line import describe_status
    from convstore.cli.chat.terminal_prompt import TerminalPrompt
    from convstore.cli.chat.typed_ahead import keep_keys

    history = PromptHistory(session.store)
    session.forget_typed = history.forget
    with keep_keys():
        yield TerminalPrompt(history, SlashCompleter(session), lambda width: describe_status(session, width))


def _is_redrawable() -> bool:
    """Return True if the prompt may be redrawn: standard input and stderr are a terminal that can do it."""
    return sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
