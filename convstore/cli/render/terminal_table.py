"""Print a table that fits a terminal: a header, columns, and lines of text below a row."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from convstore.cli.render.output_streams import has_colours
from convstore.cli.render.text_width import count_columns, cut_line, pad_line, wrap_line

_INDENT = "      "
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    heading: str
    is_number: bool = False
    """True: aligned right."""
    max_width: int | None = None
    """Columns of the terminal; a longer cell is cut."""


def get_width() -> int:
    """Return how many columns the terminal has."""
    return shutil.get_terminal_size().columns


def print_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], remarks: Sequence[Sequence[str]] = ()
) -> None:
    """Print rows below a header. A row that is wider than the terminal is cut.

    Args:
        rows: the cells, each one line without control characters.
        remarks: for each row, texts to print below it, wrapped to the width.
    """
    width = get_width()
    widths = [_measure_column(column, [row[place] for row in rows]) for place, column in enumerate(columns)]
    header = cut_line(_format_row(columns, widths, [column.heading for column in columns]), width, end="")
    sys.stdout.write((click.style(header, dim=True) if has_colours(sys.stdout) else header) + "\n")
    for number, row in enumerate(rows):
        sys.stdout.write(cut_line(_format_row(columns, widths, row), width) + "\n")
        for remark in remarks[number] if remarks else ():
            for line in wrap_line(remark, max(1, width - len(_INDENT))):
                sys.stdout.write(f"{_INDENT}{line}\n")


def _measure_column(column: Column, cells: Sequence[str]) -> int:
    widest = max((count_columns(cell) for cell in (column.heading, *cells)), default=0)
    return widest if column.max_width is None else min(widest, column.max_width)


def _format_row(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str]) -> str:
    shown = []
    for column, width, cell in zip(columns, widths, cells, strict=True):
        cut = cut_line(cell, width)
        shown.append(" " * (width - count_columns(cut)) + cut if column.is_number else pad_line(cut, width))
    return _GAP.join(shown).rstrip()
