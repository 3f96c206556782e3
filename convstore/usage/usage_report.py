"""What was spent: sums of turns, as the ledger adds them up, become a report. Pure.

What a turn cost is recorded when it ends. Of one that has no cost on record, it is what its tokens cost at the prices
in effect when it began; a price that is unknown stays unknown, and is never taken for zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import Literal, TypeAlias, TypeVar, get_args

from convstore.errors import InvalidInput

UsageBy: TypeAlias = Literal["model", "day", "conversation"]
"""What turns are grouped by."""

FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What some turns used. A count of tokens, or a cost, of None is unknown for all of them."""

    key: str | None
    """The model, the day (UTC, such as 2026-11-22), the conversation's id, or the owner. None: all; or no model."""
    label: str | None
    """Of a conversation, its name; else its title."""
    turns: int
    failed: int
    """Of them, those that brought nothing. They are in no sum, unless their usage was reported."""
    interrupted: int
    prompt_tokens: int | None
    cached_tokens: int | None
    """Of the prompts' tokens, those that the provider had cached."""
    completion_tokens: int | None
    reasoning_tokens: int | None
    """Of the completions' tokens, those that were spent on reasoning."""
    turns_without_usage: int
    """Turns that brought a reply, and no count of its tokens (as when a stream is stopped): they are in no sum."""
    cost: float | None
    turns_without_price: int
    """Turns whose tokens are known and whose price is not: they are not in `cost`."""
    latency_median: float | None
    """Seconds, of the completed turns: the least latency that half of them did not exceed."""
    latency_p95: float | None
    """Seconds, of the completed turns: the least latency that 95 % of them did not exceed."""

    @property
    def is_cost_whole(self) -> bool:
        """Whether the cost of every reply is in `cost`; else that is the least it can have been."""
        return self.cost is not None and not self.turns_without_usage and not self.turns_without_price


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What an owner's turns, or a conversation's, used in a time."""

    by: str | None
    since: datetime | None
    until: datetime | None
    currency: str
    """Of every cost."""
    total: UsageRow
    rows: tuple[UsageRow, ...]
    """A row for each group: days in their order, the others by what they cost. Empty where nothing is grouped."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What some turns add up to."""

    key: str | None
    label: str | None
    turns: int
    failed: int
    interrupted: int
    without_usage: int
    unpriced: int
    """Those that have tokens on record, and no cost."""
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    cost: float | None
    """On record."""


Latencies: TypeAlias = tuple[float | None, float | None]
"""The median and the 95th percentile, in seconds."""


def check_by(given: str | None) -> str | None:
    """Return what to group by.

    Raises:
        InvalidInput: there is no such grouping.
    """
    if given is not None and given not in get_args(UsageBy):
        kinds = ", ".join(f'"{kind}"' for kind in get_args(UsageBy))
        raise InvalidInput(f"usage is grouped by one of {kinds}, not by {given!r:.80}; of owners, see usage_by_owner")
    return given


def check_moment(given: datetime | date | None, what: str) -> datetime | None:
    """Return the moment that a time begins or ends at; a day stands for its beginning (00:00 UTC).

    Raises:
        InvalidInput: it is none, or says nothing of its time zone.
    """
    if given is None:
        return None
    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise InvalidInput(f"{what} needs a time zone, such as datetime.now(UTC) has: {given.isoformat()} has none")
        try:
            return given.astimezone(UTC)
        except OverflowError:
            raise InvalidInput(f"{what} is beyond the ends of time: {given.isoformat()}") from None
    if isinstance(given, date):
        return datetime.combine(given, time(), UTC)
    raise InvalidInput(f"{what} is a datetime or a date, not {type(given).__name__}")


def report(
    groups: Sequence[Sums],
    latencies: Mapping[str | None, Latencies],
    total: Latencies,
    *,
    currency: str,
    by: str | None,
    since: datetime | None,
    until: datetime | None,
) -> UsageReport:
    """Return a report.

    Args:
        groups: all turns, by key; `priced` has been at those whose cost is not on record.
        latencies: of each key.
        total: of all turns together.
    """
    rows = [_row(group.key, [group], latencies.get(group.key, (None, None))) for group in groups]
    rows.sort(key=_by_day if by == "day" else _by_cost)
    return UsageReport(
        by=by,
        since=since,
        until=until,
        currency=currency,
        total=_row(None, groups, total),
        rows=tuple(rows) if by is not None else (),
    )


def priced(groups: Iterable[Sums], costs: Mapping[str | None, tuple[int, float]]) -> list[Sums]:
    """Return the groups with what turns cost whose cost is not on record.

    Args:
        costs: of each key, how many such turns have a price, and what they cost.
    """

    def with_cost(group: Sums) -> Sums:
        turns, cost = costs.get(group.key, (0, 0.0))
        return replace(group, unpriced=group.unpriced - turns, cost=(group.cost or 0.0) + cost) if turns else group

    return [with_cost(group) for group in groups]


def _row(key: str | None, groups: Sequence[Sums], latencies: Latencies) -> UsageRow:
    cost = _sum(group.cost for group in groups)
    return UsageRow(
        key=key,
        label=groups[0].label if key is not None else None,
        turns=sum(group.turns for group in groups),
        failed=sum(group.failed for group in groups),
        interrupted=sum(group.interrupted for group in groups),
        prompt_tokens=_sum(group.prompt_tokens for group in groups),
        cached_tokens=_sum(group.cached_tokens for group in groups),
        completion_tokens=_sum(group.completion_tokens for group in groups),
        reasoning_tokens=_sum(group.reasoning_tokens for group in groups),
        turns_without_usage=sum(group.without_usage for group in groups),
        cost=round(float(cost), 9) if cost is not None else None,
        turns_without_price=sum(group.unpriced for group in groups),
        latency_median=latencies[0],
        latency_p95=latencies[1],
    )


N = TypeVar("N", int, float)


def _sum(numbers: Iterable[N | None]) -> N | None:
    """Return the sum of those that are known; None where there are some, and none is."""
    given = list(numbers)
    known = [number for number in given if number is not None]
    return sum(known) if known or not given else None


def _by_day(row: UsageRow) -> tuple[str, ...]:
    return (row.key or "",)


def _by_cost(row: UsageRow) -> tuple[float, int, int, str]:
    tokens = (row.prompt_tokens or 0) + (row.completion_tokens or 0)
    return (-(row.cost or 0.0), -tokens, -row.turns, row.key or "")
