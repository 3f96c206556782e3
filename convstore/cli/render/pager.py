"""Show a long output on a terminal through the user's pager, as git does."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from convstore.cli.render.text_width import count_columns

_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_LESS = "FRX"  # end at once if all fits on the screen, show colours, leave the text on the screen
_NOT_STARTED = (126, 127)  # exit codes of a shell that cannot start a command


class _Page(io.StringIO):
    """Collects what is printed for a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def _is_on_terminal() -> bool:
    """Return True if stdout is a terminal that can scroll."""
    try:
        return os.isatty(sys.stdout.fileno()) and os.environ.get("TERM") != "dumb"
    except (OSError, ValueError):
        return False


@contextmanager
def page_output(*, uses_pager: bool = True) -> Iterator[None]:
    """Show what is printed to stdout in this block at its end, through the pager if it is longer than the screen.

    Nothing changes if stdout is not a terminal. The pager is $PAGER, else less; an empty $PAGER or `cat` is none.
    """
    if not (uses_pager and _is_on_terminal()):
        yield
        return
    terminal, page = sys.stdout, _Page()
    sys.stdout = page
    try:
        yield
    except BaseException:
        sys.stdout = terminal
        terminal.write(page.getvalue())  # without a pager, so that the error is seen
        raise
    sys.stdout = terminal
    text = page.getvalue()
    if not (_is_longer_than_screen(text) and _run_pager(text)):
        terminal.write(text)


def _is_longer_than_screen(text: str) -> bool:
    columns, rows = shutil.get_terminal_size()
    lines = text.splitlines()
    if len(lines) >= rows:
        return True
    return sum(max(1, -(-count_columns(_COLOUR.sub("", line)) // columns)) for line in lines) >= rows


def _can_start(pager: str) -> bool:
    """Return False if the command certainly does not exist; the shell would print an error."""
    word = pager.split(maxsplit=1)[0]
    return shutil.which(word) is not None or re.fullmatch(r"[\w./+-]+", word) is None


def _run_pager(text: str) -> bool:
    """Show a text with the pager. Return False if there is no pager, or it cannot be started."""
    pager = os.environ.get("PAGER", "less").strip()
    if pager in ("", "cat") or not _can_start(pager):
        return False
    environment = {**os.environ, "LESS": os.environ.get("LESS", _LESS)}
    try:
        # By a shell, as in git, because the variable may hold options.
        process = subprocess.Popen(["/bin/sh", "-c", pager], stdin=subprocess.PIPE, env=environment)  # noqa: S603
    except OSError:
        return False
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pager's while it runs
    try:
        assert process.stdin is not None  # noqa: S101 (for the type checker: it is a pipe)
        with suppress(OSError):  # the user left the pager before the end
            process.stdin.write(text.encode(errors="replace"))
        with suppress(OSError):
            process.stdin.close()
        return process.wait() not in _NOT_STARTED
    finally:
        signal.signal(signal.SIGINT, before)
