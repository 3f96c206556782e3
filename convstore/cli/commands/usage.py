"""`convstore usage`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render import output

if TYPE_CHECKING:
    from convstore.usage.usage_report import UsageReport, UsageRow

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_LABEL_WIDTH = 40
_HEAD = ("turns", "failed", "prompt", "cached", "completion", "reasoning", "cost", "median", "p95")


def _moment(_context: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    """Return the moment that WHEN names: a day, a moment, or so long ago."""
    if value is None:
        return None
    try:
        if ago := re.fullmatch(r"(\d+)([hdw])", value):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is neither a day (2026-11-01), a moment (2026-11-01T09:00) nor so long ago (7d, 24h)."
        ) from None


@click.command(
    epilog=shared_options.example(
        "convstore usage --since 7d --by model",
        "convstore usage --since 2026-11-01 --until 2026-12-01 --by day",
        "convstore usage games --json",
    )
)
@click.argument("ref", required=False)
@click.option("--since", callback=_moment, metavar="WHEN", help="Turns begun from then on: 2026-11-01 (UTC), 7d, 24h.")
@click.option("--until", callback=_moment, metavar="WHEN", help="Turns begun before then.")
@click.option(
    "--by",
    type=click.Choice(["model", "day", "conversation", "owner"]),
    metavar="model|day|conversation|owner",
    help="A line for each. Days are UTC; `owner` is for whoever runs the database: of every owner.",
)
@shared_options.json_option
@shared_options.store_options
def usage(
    ref: str | None,
    since: datetime | None,
    until: datetime | None,
    by: str | None,
    as_json: bool,
    db: str | None,
    owner: str,
) -> None:
    """Show turns, tokens, cost and latency.

    Of all conversations, deleted ones too; or of the one that REF names, by its name, its id, or the beginning of
    its id. Without REF it is never the one used last alone.

    Prices come from the file that CONVSTORE_PRICES names, else from prices.toml in your configuration directory.
    A cost that is not known is `?`. One with `≥` before it is the least it can have been: the price, or the
    tokens, of some turns are not known. Latencies are of completed turns. Turns that still run are not counted.
    """
    if by == "owner" and ref is not None:
        raise click.UsageError("--by owner is of all conversations: REF names one.")
    with open_store(db, owner) as store:
        conversation_id = find_conversation(store, ref).id if ref is not None else None
        if by == "owner":
            report = store.usage_by_owner(since=since, until=until)
        else:
            report = store.usage(conversation_id, since=since, until=until, by=by)  # type: ignore[arg-type]  # a Choice
    if as_json:
        output.write_json(_form(report))
        return
    if not report.total.turns:
        output.note("no turns" if since is None and until is None else "no turns in this time")
        return
    _print_table(report)


def _form(report: UsageReport) -> dict[str, Any]:
    return {
        "by": report.by,
        "since": report.since,
        "until": report.until,
        "currency": report.currency,
        "total": _row_form(report.total),
        "rows": [{report.by: row.key, **_label(row), **_row_form(row)} for row in report.rows],
    }


def _label(row: UsageRow) -> dict[str, str]:
    return {"label": row.label} if row.label is not None else {}


def _row_form(row: UsageRow) -> dict[str, Any]:
    return {
        "turns": row.turns,
        "failed": row.failed,
        "interrupted": row.interrupted,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "turns_without_usage": row.turns_without_usage,
        "cost": row.cost,
        "turns_without_price": row.turns_without_price,
        "latency_median": row.latency_median,
        "latency_p95": row.latency_p95,
    }


def _print_table(report: UsageReport) -> None:
    lines: list[tuple[str, ...]] = [
        (report.by or "", *_HEAD[:6], f"{_HEAD[6]} {output.one_line(report.currency)}", *_HEAD[7:])
    ]
    lines += [(_name(report.by, row), *_cells(row)) for row in report.rows]
    lines.append(("total", *_cells(report.total)))
    _write_aligned(lines)
    total = report.total
    if total.turns_without_price:
        output.note(f"{total.turns_without_price} of {total.turns} turns: their model has no price; see `usage --help`")
    if total.turns_without_usage:
        output.note(f"{total.turns_without_usage} of {total.turns} turns: the provider did not report their tokens")


def _name(by: str | None, row: UsageRow) -> str:
    if by == "owner" and row.key == "":
        return "(nobody's)"
    names = (row.key if row.key is not None else "?", row.label)
    return output.one_line(" ".join(name for name in names if name))[:_LABEL_WIDTH]


def _cells(row: UsageRow) -> tuple[str, ...]:
    counts = (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens)
    return (
        f"{row.turns:,}",
        f"{row.failed:,}",
        *(f"{count:,}" if count is not None else "?" for count in counts),
        _cost(row),
        *(f"{latency:.1f}s" if latency is not None else "-" for latency in (row.latency_median, row.latency_p95)),
    )


def _cost(row: UsageRow) -> str:
    if row.cost is None:
        return "?"
    return f"{'' if row.is_cost_whole else '≥ '}{row.cost:,.4f}"


def _write_aligned(lines: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join((line[0].ljust(len(first)), *others)).rstrip() + "\n")
