"""Build usage reports from sums over turns.

A turn's cost is stored when the turn ends. For a turn without a stored cost, it is computed from the prices that were
in effect when the turn began. An unknown price stays unknown and is never taken as zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, TypeAlias, TypeVar, get_args

from convstore.errors import InvalidInput

UsageBy: TypeAlias = Literal["model", "day", "conversation"]
"""How a report groups turns."""

END_OF_TIME = datetime.max.replace(tzinfo=UTC)
"""The end of a report for which the caller gave no end."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What a group of turns used; None is a count or cost unknown for all of them."""

    key: str | None
    """The model, the day (UTC, such as 2026-11-22), the conversation's id or the owner.

    None for the total, and for turns without a model.
    """
    label: str | None
    """The conversation's name, else its title; None if the key is not a conversation."""
    turns: int
    failed: int
    """How many of the turns failed. The sums include one only if its usage was reported."""
    interrupted: int
    prompt_tokens: int | None
    cached_tokens: int | None
    """How many of the prompt tokens the provider had cached."""
    completion_tokens: int | None
    reasoning_tokens: int | None
    """How many of the completion tokens the model used for reasoning."""
    turns_without_usage: int
    """Turns with a reply and without a token count, as after a stopped stream. No sum includes them."""
    cost: float | None
    turns_without_price: int
    """Turns with a token count and without a known price. `cost` does not include them."""
    latency_median: float | None
    """Seconds: the smallest latency that half of the completed turns did not exceed."""
    latency_p95: float | None
    """Seconds: the smallest latency that 95 % of the completed turns did not exceed."""

    @property
    def is_cost_whole(self) -> bool:
        """True if `cost` includes every reply; if False, the true cost may be higher."""
        return self.cost is not None and not self.turns_without_usage and not self.turns_without_price


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What the turns of an owner or of a conversation used in a span of time."""

    by: str | None
    since: datetime | None
    until: datetime | None
    currency: str
    """The currency of every cost."""
    total: UsageRow
    rows: tuple[UsageRow, ...]
    """One row for each group: days in order, other groups by cost, highest first. Empty without a grouping."""


@dataclass(frozen=True, slots=True)
class UsageSums:
    """The sums over a group of turns, as the database adds them up."""

    key: str | None
    label: str | None
    turns: int
    failed: int
    interrupted: int
    without_usage: int
    unpriced: int
    """Turns with a stored token count and without a stored cost."""
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    cost: float | None
    """The sum of the stored costs."""


Latencies: TypeAlias = tuple[float | None, float | None]
"""The median and the 95th percentile, in seconds; None without a completed turn."""


def check_usage_by(value: str | None) -> str | None:
    """Return the grouping of a report, checked; None: no grouping.

    Raises:
        InvalidInput: the grouping does not exist.
    """
    if value is not None and value not in get_args(UsageBy):
        kinds = ", ".join(f'"{kind}"' for kind in get_args(UsageBy))
        raise InvalidInput(f"by must be one of {kinds}, not {value!r:.80}; `usage_by_owner` groups by owner")
    return value


def build_usage_report(
    groups: Sequence[UsageSums],
    latencies: Mapping[str | None, Latencies],
    total: Latencies,
    *,
    currency: str,
    by: str | None,
    since: datetime | None,
    until: datetime | None,
) -> UsageReport:
    """Return a usage report.

    Args:
        groups: the sums for each key, after `add_missing_costs`.
        latencies: the latencies of each key.
        total: the latencies of all turns together.
    """
    rows = [_build_row(group.key, [group], latencies.get(group.key, (None, None))) for group in groups]
    rows.sort(key=_order_by_day if by == "day" else _order_by_cost)
    return UsageReport(
        by=by,
        since=since,
        until=until,
        currency=currency,
        total=_build_row(None, groups, total),
        rows=tuple(rows) if by is not None else (),
    )


def add_missing_costs(groups: Iterable[UsageSums], costs: Mapping[str | None, tuple[int, float]]) -> list[UsageSums]:
    """Add the costs of turns that have no stored cost, and return the groups.

    Args:
        costs: for each key, how many of these turns have a known price, and the sum of their costs.
    """

    def add_cost(group: UsageSums) -> UsageSums:
        turns, cost = costs.get(group.key, (0, 0.0))
        return replace(group, unpriced=group.unpriced - turns, cost=(group.cost or 0.0) + cost) if turns else group

    return [add_cost(group) for group in groups]


def merge_sums(key: str | None, groups: Sequence[UsageSums]) -> UsageSums:
    """Return the sums of several groups as one group with this key."""
    return UsageSums(
        key=key,
        label=None,
        turns=sum(group.turns for group in groups),
        failed=sum(group.failed for group in groups),
        interrupted=sum(group.interrupted for group in groups),
        without_usage=sum(group.without_usage for group in groups),
        unpriced=sum(group.unpriced for group in groups),
        prompt_tokens=_sum_known(group.prompt_tokens for group in groups),
        cached_tokens=_sum_known(group.cached_tokens for group in groups),
        completion_tokens=_sum_known(group.completion_tokens for group in groups),
        reasoning_tokens=_sum_known(group.reasoning_tokens for group in groups),
        cost=_sum_known(group.cost for group in groups),
    )


def find_percentiles(times: Mapping[int, int]) -> Latencies:
    """Return the median and the 95th percentile of latencies, by the nearest rank.

    Args:
        times: how many turns had each latency in milliseconds.
    """
    count = sum(times.values())
    ranks = [-(-count * percent // 100) for percent in (50, 95)]
    found: list[float | None] = [None, None]
    so_far = 0
    for latency in sorted(times):
        so_far += times[latency]
        for place, rank in enumerate(ranks):
            if found[place] is None and so_far >= rank:
                found[place] = latency / 1000
    return (found[0], found[1])


def _build_row(key: str | None, groups: Sequence[UsageSums], latencies: Latencies) -> UsageRow:
    sums = merge_sums(key, groups)
    return UsageRow(
        key=key,
        label=groups[0].label if key is not None else None,
        turns=sums.turns,
        failed=sums.failed,
        interrupted=sums.interrupted,
        prompt_tokens=sums.prompt_tokens,
        cached_tokens=sums.cached_tokens,
        completion_tokens=sums.completion_tokens,
        reasoning_tokens=sums.reasoning_tokens,
        turns_without_usage=sums.without_usage,
        cost=round(float(sums.cost), 9) if sums.cost is not None else None,
        turns_without_price=sums.unpriced,
        latency_median=latencies[0],
        latency_p95=latencies[1],
    )


N = TypeVar("N", int, float)


def _sum_known(numbers: Iterable[N | None]) -> N | None:
    """Return the sum of the known numbers, or None if all are unknown."""
    numbers = list(numbers)
    known = [number for number in numbers if number is not None]
    return sum(known) if known or not numbers else None


def _order_by_day(row: UsageRow) -> tuple[str, ...]:
    return (row.key or "",)


def _order_by_cost(row: UsageRow) -> tuple[float, int, int, str]:
    tokens = (row.prompt_tokens or 0) + (row.completion_tokens or 0)
    return (-(row.cost or 0.0), -tokens, -row.turns, row.key or "")
