"""Decide from where a report of usage takes its numbers: from the sums of past days, or from the turns."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any

from sqlalchemy import Select, bindparam, func, select

from convstore.db.connection import Connection
from convstore.db.daily_usage import OF_DAYS, DailyUsage, Span, begin_day, count_by_day, decode_day, to_day
from convstore.db.row_errors import DECODING_ERRORS
from convstore.db.tables import daily_usage as table
from convstore.db.tables import turns
from convstore.db.unit_of_work import UnitOfWork
from convstore.db.usage_columns import select_bounds
from convstore.usage.prices import BEGINNING_OF_TIME
from convstore.usage.usage_report import END_OF_TIME

MIN_TURNS_TO_SUM = 10_000
"""With fewer turns to read, a report reads them and sums no days."""

_MOST_TURNS_AT_ONCE = 5_000  # in a transaction, which on SQLite keeps other writers waiting
_MOST_SPANS = 8
_DAY = timedelta(days=1)
_AGE_OF_SUMMED_DAYS = _DAY  # from the day's end; a turn that ends later deletes the sums (`turn_writes`)


@dataclass(frozen=True, slots=True)
class UsagePlan:
    """From where a report takes its numbers."""

    days: tuple[DailyUsage, ...]
    """Days with sums."""
    spans: tuple[Span, ...]
    """The rest of the report's time; its turns are read."""
    to_sum: tuple[Span, ...]
    """Whole days with so many turns that they should be summed first, in parts for a transaction each."""


def plan_usage(work: UnitOfWork, owner: str, since: datetime | None, until: datetime | None) -> UsagePlan:
    """Return from where the report of a span of time takes its numbers.

    Raises:
        DamagedRow: the sums of a day cannot be decoded.
    """
    whole = Span(since or BEGINNING_OF_TIME, until or END_OF_TIME)
    first, end = whole.since.date(), min(whole.until.date(), work.now.date() - _AGE_OF_SUMMED_DAYS)
    if first >= end:
        return UsagePlan((), (whole,), ())
    if whole.since > begin_day(first):
        first += _DAY
    try:
        return _plan_days(work.connection, owner, whole, first, end)
    except DECODING_ERRORS:  # the time of a turn is damaged, so it has no day
        return UsagePlan((), (whole,), ())


def _plan_days(connection: Connection, owner: str, whole: Span, first: date, end: date) -> UsagePlan:
    """Return the plan for a report in which the days from `first` to before `end` may have sums."""
    values = {"owner": owner, "first": first.isoformat(), "end": end.isoformat()}
    rows = connection.execute(_checked_days_statement(connection.dialect.name), values).all()
    days = [decode_day(row) for row in rows if row.turns == row.turns_now]
    followed = {to_day(row.day): _to_moment(row.next_turn) for row in rows}
    spans = list(_find_spans(whole, [day.day for day in days], followed))
    unsummed: dict[date, int] = {}
    for span in spans:
        # The first and the last day of the report may be parts of days, which have no sums.
        start, stop = max(span.since.date(), first), min(span.until.date(), end)
        if start < stop:
            unsummed.update(count_by_day(connection, owner, start, stop))
    if len(spans) > _MOST_SPANS:
        days, spans = [], [whole]
    to_read = sum(unsummed.values())
    if not days:  # then the turns of all days would be read
        to_read += sum(row.turns_now for row in rows)
    needs_sums = to_read >= MIN_TURNS_TO_SUM
    return UsagePlan(tuple(days), tuple(spans), tuple(_split_days(unsummed, followed)) if needs_sums else ())


def _find_spans(whole: Span, days: Sequence[date], followed: Mapping[date, datetime | None]) -> Iterator[Span]:
    """Yield the spans of a report that the summed days leave; between two days only if a turn is there.

    Args:
        followed: when the first turn after each day began.
    """
    if not days:
        yield whole
        return
    if whole.since < begin_day(days[0]):
        yield Span(whole.since, begin_day(days[0]))
    for one, other in pairwise(days):
        next_turn = followed[one]
        if next_turn is not None and next_turn < begin_day(other):
            yield Span(begin_day(one + _DAY), begin_day(other))
    if begin_day(days[-1] + _DAY) < whole.until:
        yield Span(begin_day(days[-1] + _DAY), whole.until)


@lru_cache(maxsize=2)
def _checked_days_statement(dialect: str) -> Select[Any]:
    """Return the statement for the days with sums, the number of their turns now, and the next turn after each."""
    begin, end = select_bounds(dialect, table.c.day)
    after = (turns.c.owner == bindparam("owner"), turns.c.started_at >= end)
    count = (
        select(func.count())
        .select_from(turns)
        .where(turns.c.owner == bindparam("owner"), turns.c.started_at >= begin, turns.c.started_at < end)
    )
    # Not min(): SQLite would look for it with `IS NOT NULL`.
    next_turn = select(turns.c.started_at).where(*after).order_by(turns.c.started_at).limit(1)
    return (
        select(
            table.c.day,
            table.c.turns,
            table.c.sums,
            count.correlate(table).scalar_subquery().label("turns_now"),
            next_turn.correlate(table).scalar_subquery().label("next_turn"),
        )
        .where(*OF_DAYS)
        .order_by(table.c.day)
    )


def _split_days(unsummed: Mapping[date, int], summed: Iterable[date]) -> Iterator[Span]:
    """Yield spans of days without sums, each with about as many turns as one transaction may read."""
    some: list[date] = []
    done = sorted(summed)
    for day in sorted(unsummed):
        is_full = sum(map(unsummed.__getitem__, some), unsummed[day]) > _MOST_TURNS_AT_ONCE
        if some and (is_full or bisect(done, some[-1]) != bisect(done, day)):
            yield Span(begin_day(some[0]), begin_day(some[-1] + _DAY))
            some = []
        some.append(day)
    if some:
        yield Span(begin_day(some[0]), begin_day(some[-1] + _DAY))


def _to_moment(value: object) -> datetime | None:
    if value is not None and not isinstance(value, datetime):
        raise ValueError(f"{value!r:.40} is not a time")
    return value
