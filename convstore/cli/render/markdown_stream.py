"""Render Markdown while it arrives: what was written is final, and nothing is ever repainted.

A line of a paragraph, an item or a quotation is written word by word, as soon as its markup is closed; a line of code
when it is complete; a table when its last row is. So the screen only grows: nothing flickers, what has scrolled away is
as it should be, and a screen reader reads each word once. The work is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from convstore.cli.render.inline_markdown import Span, find_cut, parse_spans
from convstore.cli.render.line_writer import LineWriter
from convstore.cli.render.output_streams import neutralise
from convstore.cli.render.text_styles import TextStyle

_MAX_HELD_CHARACTERS = 1_000
"""Text with open markup is held back so long; then it is written as it is."""
_MAX_LINE_CHARACTERS = 4_000
"""A line of code or of a table is held back so long."""
_MAX_TABLE_ROWS = 500

_FENCE = re.compile(r"( *)(`{3,}|~{3,})(.*)")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
_ITEM = re.compile(r"([ \t]*)([-*+]|\d{1,9}[.)])(?:[ \t]+(?=\S)|$)")
_TABLE_ROW = re.compile(r" {0,3}\|")
_QUOTE = re.compile(r" {0,3}> ?")
_UNDECIDED = re.compile(r"[ \t]*(?:|[-*+_=~`]+[ \t]*|[-*_](?:[ \t]*[-*_])*[ \t]*|\d{1,9}[.)]?[ \t]*)$")
"""Beginnings of a line that may become something else with the next character."""


@dataclass(slots=True)
class _Fence:
    """An open block of code."""

    indent: int
    mark: str
    colour: Callable[[str], str]
    """Colours a line."""


@dataclass(slots=True)
class _Item:
    """An open item of a list."""

    source_indent: int
    content_indent: int
    """Where its text begins in the source."""
    shown_indent: int
    """Where the text of its parent is shown."""


class MarkdownStream:
    """Takes the pieces of a text, and returns what to write to the terminal.

    Args:
        get_width: returns how many columns the terminal has.
    """

    def __init__(self, get_width: Callable[[], int], *, has_colours: bool) -> None:
        self._writer = LineWriter(get_width, has_colours=has_colours)
        self._get_width = get_width
        self._line = ""
        """The beginning of a line that is not decided yet."""
        self._is_in_text = False  # the line is text: a paragraph, an item, a quotation
        self._has_paragraph = False  # the line before was text, which this line may go on with
        self._held = ""
        """Text that cannot be written yet, because its markup is open."""
        self._fence: _Fence | None = None
        self._items: list[_Item] = []
        self._quotes = 0
        self._table: list[str] = []

    def add(self, piece: str) -> str:
        """Take a piece, and return what to write now."""
        *lines, rest = neutralise(piece).split("\n")
        for line in lines:
            self._add_to_line(line)
            self._end_line()
        if rest:
            self._add_to_line(rest)
        return self._writer.take()

    def end(self) -> str:
        """Return the rest of what to write; the text is complete."""
        if self._line or self._is_in_text:
            self._end_line()
        self._end_table()
        self._end_paragraph()
        self._fence = None
        return self._writer.take()

    # --- lines ---

    def _add_to_line(self, text: str) -> None:
        """Add to the line that is being received."""
        if self._is_in_text:
            self._add_text(text)
            return
        self._line += text
        if self._fence is not None or not self._line or self._may_become_other():
            if len(self._line) > _MAX_LINE_CHARACTERS:
                self._begin_text() if self._fence is None else self._end_line()
            return
        self._begin_text()

    def _may_become_other(self) -> bool:
        """Return True if it is not decided yet what kind of line this is, or the line must be complete to be shown."""
        quotes, line = self._strip_quote_marks(self._line)
        first = line.lstrip(" \t")[:1]
        if first.isalpha():
            return False
        if first in ("", ">") or (first in ("#", "|") and not quotes):
            return True
        if first in "`~" and not quotes and _FENCE.match(line):
            return True
        return _UNDECIDED.match(line) is not None

    def _begin_text(self) -> None:
        """Begin to show a line of text; its kind is decided."""
        self._end_table()
        line, self._line = self._line, ""
        text = self._enter_blocks(line)
        self._is_in_text = True
        self._add_text(text)

    def _end_line(self) -> None:
        """The line is complete."""
        line, self._line = self._line, ""
        if self._is_in_text:
            self._is_in_text, self._has_paragraph = False, True
            return
        if self._fence is not None:
            self._add_code(line)
        else:
            if not _TABLE_ROW.match(line):
                self._end_table()
            self._show_line(line)

    def _show_line(self, line: str) -> None:
        """Show a complete line that is not code."""
        if not line.strip():
            self._end_paragraph()
            self._writer.leave_blank()
        elif fence := self._match_fence(line):
            self._end_paragraph()
            self._begin_code(line, fence)
        elif _RULE.match(line):
            self._end_blocks()
            self._writer.write_line("─" * min(self._get_width(), 40), TextStyle.DIM)
        elif heading := _HEADING.match(line):
            self._end_blocks()
            self._show_heading(len(heading[1]), heading[2] or "")
        elif _TABLE_ROW.match(line):
            if not self._table:
                self._end_blocks()
            self._table.append(line)
            if len(self._table) > _MAX_TABLE_ROWS:
                self._end_table()
        else:
            self._line = line
            self._begin_text()
            self._end_line()

    def _show_heading(self, level: int, text: str) -> None:
        style = TextStyle.BOLD | TextStyle.UNDERLINE if level == 1 else TextStyle.BOLD
        self._writer.write_spans([(span, style | own) for span, own in self._parse(text)])
        self._writer.end_line()

    # --- blocks that contain others ---

    def _enter_blocks(self, line: str) -> str:
        """Open and close quotations and items of lists as a line of text says, and return the text itself."""
        quotes, text = self._strip_quote_marks(line)
        if quotes != self._quotes and (quotes or not self._has_paragraph):
            self._end_blocks()
            self._quotes, self._writer.quote = quotes, "│ " * quotes
        item = _ITEM.match(text)
        indent = len(text) - len(text.lstrip(" \t"))
        if item is not None:
            self._end_paragraph()
            self._leave_items(len(item[1].expandtabs(4)))
            self._begin_item(item)
            return text[item.end() :]
        if not self._has_paragraph:
            self._leave_items(indent)
        return text.lstrip(" \t")

    def _strip_quote_marks(self, line: str) -> tuple[int, str]:
        """Return how many quotations a line is in, and the line without their marks."""
        quotes = 0
        while found := _QUOTE.match(line):
            quotes, line = quotes + 1, line[found.end() :]
        return quotes, line

    def _leave_items(self, indent: int) -> None:
        """Leave the items that a line with this indent is not in."""
        while self._items and indent < self._items[-1].source_indent + 2:
            self._writer.indent = self._items.pop().shown_indent

    def _begin_item(self, item: re.Match[str]) -> None:
        source = len(item[1].expandtabs(4))
        self._items.append(_Item(source, item.end(), self._writer.indent))
        self._writer.begin_item("• " if item[2] in "-*+" else f"{item[2]} ")

    def _end_blocks(self) -> None:
        """Leave all items and quotations."""
        self._end_paragraph()
        self._items.clear()
        self._quotes, self._writer.indent, self._writer.quote = 0, 0, ""

    # --- text ---

    def _add_text(self, text: str) -> None:
        """Show as much as possible of a text."""
        if self._has_paragraph and self._is_in_text:
            self._held += "\n"
            self._has_paragraph = False
        text = text.replace("\t", " ")
        self._held += text
        is_too_long = len(self._held) > _MAX_HELD_CHARACTERS
        if " " not in text and text.isascii() and not is_too_long:
            return  # no word has ended
        cut = find_cut(self._held) or (len(self._held) if is_too_long else 0)
        if cut:
            self._writer.write_spans(self._parse(self._held[:cut]))
            self._held = self._held[cut:]

    def _parse(self, text: str) -> list[Span]:
        return parse_spans(text, has_colours=self._writer.has_colours)

    def _end_paragraph(self) -> None:
        """Show what is held back, and end the line."""
        if self._held:
            self._writer.write_spans(self._parse(self._held.rstrip("\n")))
            self._held = ""
        self._has_paragraph = False
        self._writer.end_line()

    # --- code ---

    def _match_fence(self, line: str) -> re.Match[str] | None:
        found = _FENCE.match(line)
        return None if found is None or (found[2][0] == "`" and "`" in found[3]) else found

    def _begin_code(self, line: str, fence: re.Match[str]) -> None:
        from convstore.cli.render.code_colours import make_colouring

        language = fence[3].strip().split(" ")[0].strip("{}.")
        colour = make_colouring(language if self._writer.has_colours else "")
        self._fence = _Fence(len(fence[1]), fence[2], colour)
        self._writer.write_line(line.strip(), TextStyle.DIM)

    def _add_code(self, line: str) -> None:
        """Show a line of code as it is, at the beginning of the line, so that it can be copied."""
        fence = self._fence
        assert fence is not None  # noqa: S101 (for the type checker: the caller checks it)
        mark = line.strip()
        if mark.startswith(fence.mark) and not mark.strip(fence.mark[0]):
            self._fence = None
            self._writer.write_line(mark, TextStyle.DIM)
            return
        indent = min(fence.indent, len(line) - len(line.lstrip(" ")))
        self._writer.write_raw_line(fence.colour(line[indent:]))

    # --- tables ---

    def _end_table(self) -> None:
        """Show the rows of a table; rows without the line below the head are text."""
        rows, self._table = self._table, []
        if not rows:
            return
        from convstore.cli.render.markdown_table import render_table

        table = render_table(rows, self._get_width(), has_colours=self._writer.has_colours)
        for line in table if table is not None else rows:
            self._writer.write_raw_line(line)
