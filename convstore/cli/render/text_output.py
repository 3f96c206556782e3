"""Write texts of people and models to stdout: rendered as Markdown on a terminal, as they are elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from typing import Protocol

from convstore.cli.render.output_streams import has_colours, neutralise, write_answer
from convstore.errors import ConvstoreError


class TextWriter(Protocol):
    """Writes one text, which may come in pieces."""

    def add(self, piece: str) -> str:
        """Take a piece, and return what to write now."""
        ...

    def end(self) -> str:
        """Return the rest of what to write; then the last line has an end."""
        ...


class _PlainWriter:
    """Writes a text as it is; on a terminal, its control characters are made visible."""

    def __init__(self, *, is_on_terminal: bool) -> None:
        self._is_on_terminal = is_on_terminal
        self._last = "\n"  # an empty text has no line

    def add(self, piece: str) -> str:
        self._last = piece[-1:] or self._last
        return neutralise(piece) if self._is_on_terminal else piece

    def end(self) -> str:
        return "" if self._last == "\n" else "\n"


def make_text_writer(*, is_plain: bool) -> TextWriter:
    """Return what writes a text to stdout.

    Args:
        is_plain: no Markdown is rendered, on a terminal neither.
    """
    if not renders_markdown(is_plain=is_plain):
        return _PlainWriter(is_on_terminal=sys.stdout.isatty())
    from convstore.cli.render.markdown_stream import MarkdownStream

    return MarkdownStream(_get_width, has_colours=has_colours(sys.stdout))


def renders_markdown(*, is_plain: bool) -> bool:
    """Return True if texts are rendered: stdout is a terminal that understands styles, and nobody wants them plain."""
    if is_plain or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return False
    from convstore.config.settings_file import read_user_settings  # here, because most output is not rendered

    with suppress(ConvstoreError):  # a mistake in the file is reported by whoever needs the file
        return read_user_settings().rendering.get("markdown") is not False
    return True


def write_text(text: str, *, is_plain: bool) -> None:
    """Write a whole text and a line end."""
    if not renders_markdown(is_plain=is_plain):
        write_answer(text)
        return
    writer = make_text_writer(is_plain=is_plain)
    sys.stdout.write((writer.add(text) + writer.end()) or "\n")
    sys.stdout.flush()


def _get_width() -> int:
    return shutil.get_terminal_size().columns
