"""Keep the keys that are pressed while a reply arrives for the next prompt, and do not show them in the reply.

A terminal that edits lines itself would show them at once, and take Ctrl-D for the end of a line that nobody reads. So
its echo and its editing are off while the chat runs; Ctrl-C and Ctrl-Z work as before.
"""

from __future__ import annotations

import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_INPUT_MODES, _LOCAL_MODES = 0, 3
"""Their places in what `tcgetattr` returns."""

_usual: list[list[Any]] = []
"""The modes of the terminal before the chat; empty: they were not changed."""


@contextmanager
def keep_keys() -> Iterator[None]:
    """Switch off the terminal's echo and its editing of lines in this block."""
    try:
        before = termios.tcgetattr(sys.stdin.fileno())
    except (termios.error, OSError, ValueError):  # no terminal
        yield
        return
    _usual.append(before)
    try:
        _set_modes(_without_editing(before))
        yield
    finally:
        _usual.pop()
        _set_modes(before)


@contextmanager
def release_keys() -> Iterator[None]:
    """Let the terminal be in this block as it was before the chat: for a pager, an editor, a question."""
    if not _usual:
        yield
        return
    _set_modes(_usual[-1])
    try:
        yield
    finally:
        _set_modes(_without_editing(_usual[-1]))


def _without_editing(modes: list[Any]) -> list[Any]:
    changed = [*modes]
    changed[_LOCAL_MODES] &= ~(termios.ECHO | termios.ICANON)
    changed[_INPUT_MODES] &= ~termios.ICRNL  # Enter stays Enter, and does not become Ctrl-J
    return changed


def _set_modes(modes: list[Any]) -> None:
    termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, modes)
