"""Print the table of `usage`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from convstore.cli.render.output_streams import make_one_line, write_note
from convstore.cli.render.pager import page_output
from convstore.cli.render.terminal_table import get_width
from convstore.cli.render.text_width import count_columns, cut_line, pad_line

if TYPE_CHECKING:
    from convstore.usage.usage_report import UsageReport, UsageRow

_LABEL_WIDTH = 40  # characters
_MIN_LABEL_WIDTH = 24  # columns, if a label is so long
_MIN_CUT_WIDTH = 8  # columns; a shorter label says nothing
_COLUMNS = ("turns", "failed", "prompt", "cached", "completion", "reasoning", "cost", "median", "p95")
_LEAST_NEEDED = ("p95", "reasoning", "cached", "median", "failed")
"""The columns that a narrow terminal does not show, the first of them first."""
_NEEDED_LITTLE = ("prompt", "completion")
"""The columns that it does not show if the labels would be too short to be read."""


def print_usage(report: UsageReport, *, uses_pager: bool = True) -> None:
    """Print a line for each row of a report, and the total.

    Notes on stderr tell how many turns have no price or no token counts.
    """
    columns = [f"cost {make_one_line(report.currency)}" if name == "cost" else name for name in _COLUMNS]
    lines = [(report.by or "", *columns)]
    lines += [(_label_row(report.by, row), *_format_cells(row)) for row in report.rows]
    lines.append(("total", *_format_cells(report.total)))
    hidden: list[str] = []
    if sys.stdout.isatty():
        lines, hidden = _fit_lines(lines, get_width())
    with page_output(uses_pager=uses_pager):
        _print_aligned(lines)
    if hidden:
        write_note(f"too narrow for {', '.join(hidden)}; a wider terminal or --json shows them")
    total = report.total
    if total.turns_without_price:
        write_note(
            f"{total.turns_without_price} of {total.turns} turns have a model without a price; "
            "see `convstore usage --help`"
        )
    if total.turns_without_usage:
        write_note(f"{total.turns_without_usage} of {total.turns} turns have no token counts from the provider")


def _fit_lines(lines: list[tuple[str, ...]], width: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the lines without the columns that do not fit, with shorter labels, and the names of these columns."""
    hidden = []
    least = min(_MIN_LABEL_WIDTH, max(count_columns(line[0]) for line in lines))
    for name in (*_LEAST_NEEDED, *_NEEDED_LITTLE):
        if _measure_numbers(lines) + (least if name in _LEAST_NEEDED else min(least, _MIN_CUT_WIDTH)) <= width:
            break
        place = 1 + [column.split()[0] for column in lines[0][1:]].index(name)
        lines = [line[:place] + line[place + 1 :] for line in lines]
        hidden.append(name)
    label_width = max(_MIN_CUT_WIDTH, width - _measure_numbers(lines))
    return [(cut_line(line[0], label_width), *line[1:]) for line in lines], hidden


def _measure_numbers(lines: Sequence[tuple[str, ...]]) -> int:
    return sum(2 + max(len(line[place]) for line in lines) for place in range(1, len(lines[0])))


def _label_row(by: str | None, row: UsageRow) -> str:
    if by == "owner" and row.key == "":
        return "(none)"
    names = (row.key if row.key is not None else "?", row.label)
    return make_one_line(" ".join(name for name in names if name))[:_LABEL_WIDTH]


def _format_cells(row: UsageRow) -> tuple[str, ...]:
    counts = (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens)
    return (
        f"{row.turns:,}",
        f"{row.failed:,}",
        *(f"{count:,}" if count is not None else "?" for count in counts),
        _format_cost(row),
        *(f"{latency:.1f}s" if latency is not None else "-" for latency in (row.latency_median, row.latency_p95)),
    )


def _format_cost(row: UsageRow) -> str:
    if row.cost is None:
        return "?"
    return f"{'' if row.is_cost_whole else '≥ '}{row.cost:,.4f}"


def _print_aligned(lines: Sequence[tuple[str, ...]]) -> None:
    """Print the cells of lines in columns: the first aligned left, the others right."""
    on_terminal = sys.stdout.isatty()
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    if on_terminal:
        widths[0] = max(count_columns(line[0]) for line in lines)
    for line in lines:
        first = pad_line(line[0], widths[0]) if on_terminal else line[0].ljust(widths[0])
        others = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        sys.stdout.write("  ".join((first, *others)).rstrip() + "\n")
