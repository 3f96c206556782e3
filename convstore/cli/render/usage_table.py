"""Print the table of `usage`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from convstore.cli.render.output_streams import make_one_line, write_note

if TYPE_CHECKING:
    from convstore.usage.usage_report import UsageReport, UsageRow

_LABEL_WIDTH = 40  # characters
_COLUMNS = ("turns", "failed", "prompt", "cached", "completion", "reasoning", "cost", "median", "p95")


def print_usage(report: UsageReport) -> None:
    """Print a line for each row of a report, and the total.

    Notes on stderr tell how many turns have no price or no token counts.
    """
    columns = [f"cost {make_one_line(report.currency)}" if name == "cost" else name for name in _COLUMNS]
    lines = [(report.by or "", *columns)]
    lines += [(_label_row(report.by, row), *_format_cells(row)) for row in report.rows]
    lines.append(("total", *_format_cells(report.total)))
    _print_aligned(lines)
    total = report.total
    if total.turns_without_price:
        write_note(
            f"{total.turns_without_price} of {total.turns} turns have a model without a price; "
            "see `convstore usage --help`"
        )
    if total.turns_without_usage:
        write_note(f"{total.turns_without_usage} of {total.turns} turns have no token counts from the provider")


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
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join((line[0].ljust(len(first)), *others)).rstrip() + "\n")
