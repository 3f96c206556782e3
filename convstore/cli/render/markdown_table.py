"""Render a Markdown table for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from io import StringIO
from typing import TYPE_CHECKING, Literal

from convstore.cli.render.inline_markdown import Span, parse_spans
from convstore.cli.render.output_streams import neutralise
from convstore.cli.render.text_styles import TextStyle, add_style

if TYPE_CHECKING:
    from rich.text import Text

_DELIMITER = re.compile(r"\s*:?-+:?\s*$")
_CELL_END = re.compile(r"(?<!\\)\|")
_MIN_COLUMN_WIDTH = 8
_RICH = {
    TextStyle.BOLD: "bold",
    TextStyle.DIM: "dim",
    TextStyle.ITALIC: "italic",
    TextStyle.UNDERLINE: "underline",
    TextStyle.STRUCK: "strike",
    TextStyle.CODE: "cyan",
    TextStyle.LINK: "blue",
}
_Alignment = Literal["left", "center", "right"]


def render_table(rows: Sequence[str], width: int, *, has_colours: bool) -> list[str] | None:
    """Return the lines of a table, or None if the rows are no table.

    Args:
        rows: the lines of the source.
        width: columns of the terminal. If they are too few for the table, each row becomes a list of its cells.
    """
    if len(rows) < 2:
        return None
    head, delimiters, *body = [_split_cells(row) for row in rows]
    if len(head) != len(delimiters) or not all(_DELIMITER.match(cell) for cell in delimiters):
        return None
    parse = partial(parse_spans, has_colours=has_colours)
    cells = [[parse(cell) for cell in (*row, *[""] * len(head))[: len(head)]] for row in body]
    names = [parse(cell) for cell in head]
    if width // len(head) < _MIN_COLUMN_WIDTH:
        return _list_cells(names, cells, has_colours=has_colours)
    return _draw(names, [_find_alignment(cell) for cell in delimiters], cells, width, has_colours=has_colours)


def _split_cells(row: str) -> list[str]:
    inner = row.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return [cell.strip().replace("\\|", "|") for cell in _CELL_END.split(inner)]


def _find_alignment(delimiter: str) -> _Alignment:
    text = delimiter.strip()
    if text.endswith(":"):
        return "center" if text.startswith(":") else "right"
    return "left"


def _draw(
    names: list[list[Span]],
    alignments: list[_Alignment],
    cells: list[list[list[Span]]],
    width: int,
    *,
    has_colours: bool,
) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", border_style="dim")
    for name, alignment in zip(names, alignments, strict=True):
        table.add_column(_make_text(name), justify=alignment, overflow="fold")
    for row in cells:
        table.add_row(*(_make_text(cell) for cell in row))
    page = StringIO()
    console = Console(
        file=page,
        width=width,
        force_terminal=True,
        color_system="standard",
        no_color=not has_colours,
        legacy_windows=False,
        highlight=False,
        emoji=False,
        markup=False,
    )
    console.print(table)
    return [line.rstrip() for line in page.getvalue().rstrip("\n").split("\n")]


def _make_text(spans: list[Span]) -> Text:
    from rich.text import Text

    text = Text()
    for piece, style in spans:
        text.append(neutralise(piece), " ".join(name for flag, name in _RICH.items() if flag & style))
    return text


def _list_cells(names: list[list[Span]], cells: list[list[list[Span]]], *, has_colours: bool) -> list[str]:
    """Return each row as lines of `head: cell`, with an empty line between two rows."""
    lines: list[str] = []
    for row in cells:
        lines += [""] if lines else []
        for name, cell in zip(names, row, strict=True):
            bold = [(text, style | TextStyle.BOLD) for text, style in name]
            spans = [*bold, (": ", TextStyle.PLAIN), *cell]
            lines.append("".join(add_style(neutralise(text), style, has_colours=has_colours) for text, style in spans))
    return lines
