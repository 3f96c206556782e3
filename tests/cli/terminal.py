"""Run the real program on its own terminal (a pty)."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from types import TracebackType
from typing import Self

from tests.cli.program import start
from tests.processes import PATIENCE, press_until_heard

OUR_COLOURS = re.compile(r"\x1b\[[012]m")
DRIVES_A_TERMINAL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Terminal:
    """The program on a terminal. Its stdout may be another file."""

    def __init__(self, *arguments: str, out: int | None = None, feed: str | None = None) -> None:
        self._master, slave = pty.openpty()
        self.screen = ""
        self.process = start(
            *arguments,
            stdin=slave if feed is not None else subprocess.DEVNULL,
            stdout=slave if out is None else out,
            stderr=slave,
        )
        os.close(slave)
        if feed is not None:
            os.write(self._master, feed.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def until(self, text: str) -> str:
        """Read until `text` is on the screen, and return the whole screen."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.screen:
            assert self._read(deadline), self.screen
        return self.screen

    def type(self, text: str) -> None:
        """Type a text on the keyboard."""
        os.write(self._master, text.encode())

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        press_until_heard(lambda: self.process.send_signal(number), self._master)

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"the program printed nothing more after {self.screen!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux raises EIO after the last slave was closed
            data = b""
        # The terminal writes CR LF for a newline.
        self.screen += data.decode(errors="surrogateescape").replace("\r\n", "\n")
        return bool(data)


def read_screen(*arguments: str, feed: str | None = None) -> str:
    """Run the program on a terminal, and return the screen at its end."""
    with Terminal(*arguments, feed=feed) as terminal:
        assert terminal.end() in (0, 3, 4, 6), terminal.screen
        return terminal.screen


def is_tame(screen: str) -> bool:
    """Return True if the screen has no control characters but colours of convstore."""
    return DRIVES_A_TERMINAL.search(OUR_COLOURS.sub("", screen)) is None
