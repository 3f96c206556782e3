"""Read messages line by line: from a pipe, or on a terminal that must not be redrawn."""

from __future__ import annotations

import sys

from convstore.cli.options.text_input import decode_utf8
from convstore.cli.render.output_streams import write_terminal_note


class LinePrompt:
    """Reads a line of standard input as a message; a line that ends with a backslash goes on in the next one."""

    def __init__(self) -> None:
        self._is_typed = sys.stdin.isatty()

    def read(self) -> str:
        """Return the next message.

        Raises:
            EOFError: there is no more.
            click.UsageError: the line is not UTF-8.
        """
        lines = [self._read_line("> ")]
        while self._is_typed and lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._read_line(". "))
        return "\n".join(lines)

    def _read_line(self, prompt: str) -> str:
        if self._is_typed:
            sys.stderr.write(prompt)
            sys.stderr.flush()
        line = sys.stdin.buffer.readline()
        if not line:
            if self._is_typed:
                write_terminal_note("")
            raise EOFError
        return decode_utf8(line, "standard input").rstrip("\r\n")
