"""Run the real program on a terminal that has a keyboard and a screen, and see what the screen shows."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import pyte

from tests.cli.program import Process, start
from tests.processes import PATIENCE, press_until_heard

ENTER, TAB, ESCAPE, CTRL_C, CTRL_D, CTRL_R = "\r", "\t", "\x1b", "\x03", "\x04", "\x12"
UP, DOWN = "\x1b[A", "\x1b[B"


class _Screen(pyte.HistoryScreen):
    """A screen that answers when it is asked where the cursor is."""

    def __init__(self, columns: int, lines: int, answer: Callable[[str], None]) -> None:
        self._answer = answer
        super().__init__(columns, lines, history=5000, ratio=0.5)

    def write_process_input(self, data: str) -> None:
        self._answer(data)


class ScreenTerminal:
    """The program on a terminal of a size, with keys to press.

    Args:
        stdout: another file for stdout; None: the terminal.
    """

    def __init__(self, *arguments: str, columns: int = 80, lines: int = 24, stdout: int | None = None) -> None:
        self._master, slave = pty.openpty()
        self._screen = _Screen(columns, lines, self.press)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        """Everything that the program wrote."""
        _set_size(slave, columns, lines)
        self.process: Process = start(*arguments, stdin=slave, stdout=slave if stdout is None else stdout, stderr=slave)
        self._slave = slave  # open, so that what the terminal's settings are can be read at the end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    # --- the keyboard ---

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def type_line(self, text: str) -> None:
        """Type a text, and Enter."""
        self.press(text + ENTER)

    def paste(self, text: str) -> None:
        """Paste a text, as a terminal does that brackets it."""
        self.press(f"\x1b[200~{text}\x1b[201~")

    def interrupt(self) -> None:
        """Press Ctrl-C, as a signal of the terminal."""
        press_until_heard(lambda: self.process.send_signal(signal.SIGINT), self._master)

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the terminal."""
        self._screen.resize(lines, columns)
        _set_size(self._master, columns, lines)
        self.process.send_signal(signal.SIGWINCH)

    # --- the screen ---

    @property
    def lines(self) -> list[str]:
        """The lines of the screen, without the spaces at their ends."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """What scrolled away and what the screen shows, without empty lines at the end."""
        scrolled = [
            "".join(cell.data for _, cell in sorted(line.items())).rstrip() for line in self._screen.history.top
        ]
        return "\n".join([*scrolled, *self.lines]).rstrip()

    def until(self, text: str) -> str:
        """Read until a text is on the screen or has scrolled away, and return everything."""
        return self.until_true(lambda: text in self.text, text)

    def until_true(self, condition: Callable[[], bool], what: str = "the condition") -> str:
        """Read until a condition is true, and return everything that was shown."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.read(0.1)
            assert time.monotonic() < deadline, f"no {what!r} on the screen:\n{self.text}"
        return self.text

    def read(self, seconds: float) -> bool:
        """Read what the program writes now; return False if it writes nothing more."""
        if not select.select([self._master], [], [], max(0, seconds))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def end(self) -> int:
        """Read to the end of the program, and return its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None or self.read(0.05):
            self.read(0.05)
            assert time.monotonic() < deadline, f"the program does not end:\n{self.text}"
        return self.process.wait(PATIENCE)

    @property
    def is_at_prompt(self) -> bool:
        """Whether the cursor is behind an empty prompt of a chat, and the status line is below it."""
        row = self.lines[self._screen.cursor.y]
        return row == ">" and self._screen.cursor.x == 2 and " · " in self.lines[-1]

    @property
    def cursor_style(self) -> str:
        """`default`, or how the next character would look."""
        return "default" if self._screen.cursor.attrs == self._screen.default_char else str(self._screen.cursor.attrs)

    def find_looks(self, word: str) -> set[str]:
        """Return the looks of a word on the screen: `bold`, `italic`, `underlined`, or a colour."""
        for number, line in enumerate(self._screen.display):
            place = line.find(word)
            if place >= 0:
                cell = self._screen.buffer[number][place]
                flags = {"bold": cell.bold, "italic": cell.italics, "underlined": cell.underscore}
                return {name for name, is_set in flags.items() if is_set} | ({cell.fg} - {"default"})
        raise AssertionError(f"{word!r} is not on the screen")

    @property
    def is_sane(self) -> bool:
        """Whether the terminal echoes and reads by lines, as a shell expects."""
        return bool(termios.tcgetattr(self._slave)[3] & (termios.ECHO | termios.ICANON))


def _set_size(file: int, columns: int, lines: int) -> None:
    fcntl.ioctl(file, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
