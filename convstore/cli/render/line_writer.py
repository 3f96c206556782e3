"""Write styled text in lines of a terminal: wrapped between words, behind an indent, never changed afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable

from convstore.cli.render.inline_markdown import CLOSING_MARKS, WIDE_LETTERS, Span
from convstore.cli.render.output_streams import neutralise
from convstore.cli.render.text_styles import RESET, TextStyle, add_style, begin_style
from convstore.cli.render.text_width import count_columns

_MIN_WIDTH = 20
"""Text is not wrapped to fewer columns, however deep a list is."""
_CHINESE = re.compile(f"[{WIDE_LETTERS}]")
_UNITS = re.compile(f"[{WIDE_LETTERS}][{CLOSING_MARKS}]*|[^{WIDE_LETTERS}]+")
"""What cannot be broken; punctuation does not begin a line."""


class LineWriter:
    """Collects what is to be written, and knows in which column the line stands.

    Args:
        get_width: returns how many columns the terminal has.
    """

    def __init__(self, get_width: Callable[[], int], *, has_colours: bool) -> None:
        self._get_width = get_width
        self.has_colours = has_colours
        self._parts: list[str] = []
        self._column = self._start = 0
        self._width = get_width()
        self._is_at_beginning = True
        self._blank_quote: str | None = None
        """The quotation of the blank line that is due; None: none is due."""
        self._style = TextStyle.PLAIN
        """The style that the terminal is in."""
        self._has_space = False
        self._word: list[Span] = []
        self.indent = 0
        """Columns before the text of each line."""
        self.quote = ""
        """What stands before the indent, such as the bars of a quotation."""

    def take(self) -> str:
        """Return what is to be written now; it ends without a style, because it may be the last."""
        self._change_style(TextStyle.PLAIN)
        text = "".join(self._parts)
        self._parts.clear()
        return text

    @property
    def is_in_line(self) -> bool:
        """Whether the line has something."""
        return self._column > 0

    def end_line(self) -> None:
        """End the line, if it has something."""
        self._place_word()
        if self._column:
            self._break_line()
        self._column, self._has_space = 0, False

    def leave_blank(self) -> None:
        """Leave a blank line before what comes next, but not at the beginning and the end."""
        self.end_line()
        if not self._is_at_beginning:
            self._blank_quote = self.quote

    def write_line(self, text: str, style: TextStyle = TextStyle.PLAIN) -> None:
        """Write a line as it is, however long, without an indent."""
        self.write_raw_line(add_style(neutralise(text), style, has_colours=self.has_colours))

    def write_raw_line(self, text: str) -> None:
        """Write a line that has control sequences of convstore."""
        self.end_line()
        self._write_blank()
        self._parts.append(f"{text}\n")

    def begin_item(self, marker: str) -> None:
        """Begin a line with the marker of a list item; the indent grows by its columns."""
        self.end_line()
        self._begin_line()
        self._parts.append(add_style(marker, TextStyle.DIM, has_colours=self.has_colours))
        self._column = self._start = self._column + count_columns(marker)
        self.indent += count_columns(marker)

    def write_spans(self, spans: list[Span]) -> None:
        """Write text that is broken between words, where it does not fit; its own line breaks stay."""
        for text, style in spans:
            if style is TextStyle.PLAIN and not self._word and "\n" not in text and text.isascii():
                self._write_plain(text)
            else:
                self._write_span(text, style)
        if self._word and _CHINESE.match(self._word[-1][0][-1]):
            self._place_word()

    def _write_plain(self, text: str) -> None:
        """Write text without a style: the most frequent case, and so the fastest."""
        *words, last = text.split(" ")
        for word in words:
            if word:
                self._begin_word(len(word), TextStyle.PLAIN)
                self._parts.append(word)
            self._has_space = True
        if last:
            self._word.append((last, TextStyle.PLAIN))

    def _write_span(self, text: str, style: TextStyle) -> None:
        for number, line in enumerate(text.split("\n")):
            if number:
                self.end_line()
            *words, last = line.split(" ")
            for word in words:
                if word:
                    self._word.append((word, style))
                self._place_word()
                self._has_space = True
            if last:
                self._word.append((last, style))

    def _place_word(self) -> None:
        """Put the word that was collected, which may have several styles."""
        if not self._word:
            return
        word, self._word = self._word, []
        text = "".join(piece for piece, _ in word)
        if text.isascii() or not _CHINESE.search(text):
            self._begin_word(count_columns(text), word[0][1])
            for piece, style in word:
                self._write_piece(piece, style)
            return
        for piece, style in word:
            for unit in _UNITS.findall(piece):
                self._begin_word(count_columns(unit), style)
                self._write_piece(unit, style)

    def _write_piece(self, text: str, style: TextStyle) -> None:
        self._change_style(style)
        self._parts.append(neutralise(text))

    def _change_style(self, style: TextStyle) -> None:
        if style == self._style:
            return
        begin = begin_style(style, has_colours=self.has_colours)
        if self._style:
            self._parts.append(RESET)
        self._parts.append(begin)
        self._style = style if begin else TextStyle.PLAIN

    def _begin_word(self, columns: int, style: TextStyle) -> None:
        """Put a space if one is due, or begin a line, for a word of so many columns that cannot be broken.

        What is longer than a line, such as an address, is left to the terminal: it can then be copied whole.
        """
        space = 1 if self._has_space and self._column > self._start else 0
        if self._column and (self._column + space + columns <= self._width or self._column == self._start):
            if style != self._style:
                self._change_style(TextStyle.PLAIN)
            if space:
                self._parts.append(" ")
        else:
            if self._column:
                self._break_line()
            self._begin_line()
            space = 0
        self._column += space + columns
        if self._column > self._width:  # the terminal goes on in the next line
            self._column = (self._column - 1) % self._width + 1
        self._has_space = False

    def _break_line(self) -> None:
        self._change_style(TextStyle.PLAIN)
        self._parts.append("\n")

    def _begin_line(self) -> None:
        self._write_blank()
        self._width = max(self._get_width(), _MIN_WIDTH)
        self._parts.append(self.quote + " " * self.indent)
        self._column = self._start = len(self.quote) + self.indent

    def _write_blank(self) -> None:
        if self._blank_quote is not None:
            self._parts.append(f"{self.quote.rstrip()}\n" if self.quote == self._blank_quote else "\n")
        self._blank_quote, self._is_at_beginning = None, False
