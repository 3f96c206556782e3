"""Keep the sums of what an owner's turns used on a past day, so that a report need not read every turn.

No turn writes a sum: two running turns never wait for one row. A report sums past days, if there are many turns to add
up. The row of a day says how many turns it is about. If the day has more or fewer, or the sums are missing, a report
reads the turns of that day. A turn that ends long after it began deletes the sums of its day.
"""

from __future__ import annotations

import json
import logging
import math
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any

from sqlalchemy import Select, bindparam, func, select, update
from sqlalchemy.exc import ProgrammingError

from convstore.db.connection import Connection
from convstore.db.dialect import NO_LIMIT, insert_or_update, is_sqlite
from convstore.db.lock_wait import limit_lock_wait
from convstore.db.row_errors import DECODING_ERRORS
from convstore.db.tables import daily_usage as table
from convstore.db.tables import turns
from convstore.db.unit_of_work import UnitOfWork
from convstore.db.usage_columns import (
    COUNTED,
    HAS_LATENCY,
    SUMS,
    TOKENS,
    UNPRICED_SUMS,
    round_latency,
    select_bounds,
    select_day,
)
from convstore.errors import DamagedRow
from convstore.messages.storable_text import from_column
from convstore.usage.prices import BEGINNING_OF_TIME
from convstore.usage.usage_report import END_OF_TIME, UsageSums

_logger = logging.getLogger(__name__)

MIN_TURNS_TO_SUM = 10_000
"""With fewer turns to read, a report reads them and sums no days."""

_MOST_TURNS_AT_ONCE = 5_000  # in a transaction, which on SQLite keeps other writers waiting
_MOST_SPANS = 8
_DAYS_PER_CHECK = 31
_INSUFFICIENT_PRIVILEGE = "42501"
_COUNTS = ("turns", "failed", "interrupted", "without_usage", "unpriced")
_DAY = timedelta(days=1)
_AGE_OF_SUMMED_DAYS = _DAY  # from the day's end; a turn that ends later deletes the sums (`turn_writes`)

_WITHIN = (
    turns.c.owner == bindparam("owner"),
    turns.c.started_at >= bindparam("since"),
    turns.c.started_at < bindparam("until"),
)
_OF_DAYS = (
    table.c.owner == bindparam("owner"),
    table.c.day >= bindparam("first"),
    table.c.day < bindparam("end"),
    table.c.sums.is_not(None),
)
_SUMMED = (
    select(table.c.day, table.c.turns, table.c.sums).where(*_OF_DAYS).order_by(table.c.day).limit(bindparam("most"))
)
_OWNERS = select(table.c.owner).distinct().order_by(table.c.owner)
_STORE = update(table).where(table.c.owner == bindparam("key_owner"), table.c.day == bindparam("key_day"))


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What the turns of one model used on a day."""

    model: str | None
    """The model that answered, as the provider named it."""
    requested_model: str | None
    sums: UsageSums
    unpriced_tokens: tuple[int, int, int, int]
    """The tokens of turns without a stored cost: prompt, cached, completion, reasoning."""
    latencies: Mapping[int, int]
    """How many completed turns had a latency, by rounded milliseconds."""


@dataclass(frozen=True, slots=True)
class DailyUsage:
    """What the turns that began on a day (UTC) used."""

    day: date
    turns: int
    """Number of the day's turns, also of those that no report counts."""
    models: tuple[ModelUsage, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time: from `since` to before `until`."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class UsagePlan:
    """From where a report takes its numbers."""

    days: tuple[DailyUsage, ...]
    """Days with sums."""
    spans: tuple[Span, ...]
    """The rest of the report's time; its turns are read."""
    to_sum: tuple[Span, ...]
    """Whole days with so many turns that they should be summed first, in parts for a transaction each."""


def begin_day(day: date) -> datetime:
    """Return the first moment of a day, in UTC."""
    return datetime.combine(day, time(), UTC)


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
    rows = connection.execute(_make_checked_days(connection.dialect.name), values).all()
    days = [_decode_day(row) for row in rows if row.turns == row.turns_now]
    followed = {_to_day(row.day): _to_moment(row.next_turn) for row in rows}
    spans = list(_find_spans(whole, [day.day for day in days], followed))
    unsummed: dict[date, int] = {}
    for span in spans:
        # A span begins with a whole day, but for that of the report.
        start, stop = max(span.since.date(), first), min(span.until.date(), end)
        if start < stop:
            unsummed.update(_count_by_day(connection, owner, start, stop))
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
def _make_checked_days(dialect: str) -> Select[Any]:
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
        .where(*_OF_DAYS)
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


def sum_days(work: UnitOfWork, owner: str, span: Span) -> None:
    """Store the sums of each day of a span that has turns.

    The rows are locked before the turns are read. So a turn that ends late is either read, or waits for the sums and
    then deletes them.

    Raises:
        DamagedRow: a turn cannot be added up.
    """
    connection = work.connection
    limit_lock_wait(connection)
    first, end = span.since.date(), span.until.date()
    lock = _make_write(connection.dialect.name, clears=False)
    for day in sorted(_count_by_day(connection, owner, first, end)):
        connection.execute(lock, {"owner": owner, "day": day.isoformat(), "turns": 0})
    values = {"owner": owner, "first": first.isoformat(), "end": end.isoformat(), "most": NO_LIMIT}
    summed = {row.day: row.turns for row in connection.execute(_SUMMED, values)}
    try:
        counts = _count_by_day(connection, owner, first, end)
        sums = _sum_turns(connection, owner, span)
    except DECODING_ERRORS as error:
        raise DamagedRow(f"the turns from {first} to before {end} cannot be added up ({error})") from error
    if all(summed.get(day.isoformat()) == count for day, count in counts.items()):
        return  # another report has just done it
    connection.execute_many(
        _STORE,
        [
            {"key_owner": owner, "key_day": day.isoformat(), "turns": counts[day], "sums": sums.get(day, "[]")}
            for day in sorted(counts)
        ],
    )


def forget_day(connection: Connection, owner: str, moment: datetime) -> None:
    """Delete the sums of the day of a moment, because one of its turns has changed.

    A role of PostgreSQL that may not write sums stores its turn all the same.
    """
    day = moment.astimezone(UTC).date()
    if is_sqlite(connection):
        _clear_day(connection, owner, day)
        return
    try:
        with connection.plain.begin_nested():
            _clear_day(connection, owner, day)
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        _logger.warning("the sums of usage of %s stay, because this role may not write %s", day, table.name)


def _clear_day(connection: Connection, owner: str, day: date) -> None:
    """Delete the sums of a day, and lock its row.

    The row is inserted if it does not exist, because another transaction may be doing the same.
    """
    clear = _make_write(connection.dialect.name, clears=True)
    connection.execute(clear, {"owner": owner, "day": day.isoformat(), "turns": 0})


@lru_cache(maxsize=4)
def _make_write(dialect: str, *, clears: bool) -> Any:
    """Return the statement that locks the row of a day, and deletes its sums if `clears`."""
    return insert_or_update(table, {"sums": None} if clears else {"turns": table.c.turns}, dialect)


def list_owners(connection: Connection) -> list[str]:
    """Return the owners for whom there are sums."""
    return [row.owner for row in connection.execute(_OWNERS, {})]


def check_days(connection: Connection, owner: str, after: date) -> tuple[list[str], date | None]:
    """Compare the sums of an owner's next days with their turns.

    Returns:
        What is wrong, and the last of these days; None: there are no more.
    """
    values = {"owner": owner, "first": (after + _DAY).isoformat(), "end": date.max.isoformat(), "most": _DAYS_PER_CHECK}
    rows = connection.execute(_SUMMED, values).all()
    try:
        days = {_to_day(row.day): row for row in rows}
    except DECODING_ERRORS:
        return [f"the day {rows[0].day!r:.40} of the sums of usage is not a day"], None
    if not days:
        return [], None
    span = Span(begin_day(min(days)), begin_day(max(days) + _DAY))
    try:
        counts = _count_by_day(connection, owner, span.since.date(), span.until.date())
        sums = _sum_turns(connection, owner, span)
    except DECODING_ERRORS as error:
        return [f"the turns from {min(days)} to {max(days)} cannot be added up ({error})"], max(days)
    return [
        f"the sums of usage of {day} do not fit its turns"
        for day, row in days.items()
        # With another number of turns, no report uses the sums.
        if row.turns == counts.get(day, 0) and not _fits(row.sums, sums.get(day, "[]"))
    ], max(days)


def _fits(stored: str, sums: str) -> bool:
    """Return True if the sums of a day are equal, but for the order in which its costs and tokens were added."""
    try:
        pairs = list(zip(json.loads(stored), json.loads(sums), strict=True))
        return all(_is_close(one.get(name), value) for one, other in pairs for name, value in other.items())
    except DECODING_ERRORS:
        return False


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(other, list):
        return isinstance(one, list) and all(map(_is_close, one, other))
    if isinstance(other, int | float) and isinstance(one, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-8)
    return bool(one == other)


def _count_by_day(connection: Connection, owner: str, first: date, end: date) -> dict[date, int]:
    statement = _make_count_by_day(connection.dialect.name)
    values = {"owner": owner, "since": begin_day(first), "until": begin_day(end)}
    return {_to_day(row.day): row.turns for row in connection.execute(statement, values)}


@lru_cache(maxsize=2)
def _make_count_by_day(dialect: str) -> Select[Any]:
    return select(select_day(dialect).label("day"), func.count().label("turns")).where(*_WITHIN).group_by("day")


def _sum_turns(connection: Connection, owner: str, span: Span) -> dict[date, str]:
    """Return the sums of the counted turns of each day, as they are stored."""
    values = {"owner": owner, "since": span.since, "until": span.until}
    sums, latencies = _make_sums(connection.dialect.name)
    counted: dict[tuple[Any, ...], dict[str, int]] = {}
    for row in connection.execute(latencies, values):
        counted.setdefault((_to_day(row.day), row.model, row.requested_model), {})[str(row.latency)] = row.times
    found: dict[date, list[dict[str, Any]]] = {}
    for row in connection.execute(sums, values):
        day = _to_day(row.day)
        group = counted.get((day, row.model, row.requested_model), {})
        found.setdefault(day, []).append(
            {
                "model": row.model,
                "requested_model": row.requested_model,
                **{name: getattr(row, name) for name in _COUNTS},
                **{name: _to_whole(getattr(row, name)) for name in TOKENS},
                "cost": round(float(row.cost), 9) if row.cost is not None else None,
                "unpriced_tokens": [_to_whole(getattr(row, f"unpriced_{name}")) or 0 for name in TOKENS],
                "latencies": {latency: group[latency] for latency in sorted(group, key=int)},
            }
        )
    for groups in found.values():
        groups.sort(key=lambda group: (group["model"] or "", group["requested_model"] or ""))
    return {day: json.dumps(groups, separators=(",", ":"), allow_nan=False) for day, groups in found.items()}


@lru_cache(maxsize=2)
def _make_sums(dialect: str) -> tuple[Select[Any], Select[Any]]:
    """Return the statements for the sums and for the latencies of each day, model and requested model."""
    keys = (select_day(dialect).label("day"), turns.c.model, turns.c.requested_model)
    groups = ("day", turns.c.model, turns.c.requested_model)
    sums = select(*keys, *SUMS, *UNPRICED_SUMS).where(*_WITHIN, COUNTED).group_by(*groups)
    latencies = (
        select(*keys, round_latency().label("latency"), func.count().label("times"))
        .where(*_WITHIN, COUNTED, HAS_LATENCY)
        .group_by(*groups, "latency")
    )
    return sums, latencies


def _to_whole(number: float | None) -> int | None:
    return int(number) if number is not None else None


def _to_moment(value: object) -> datetime | None:
    if value is not None and not isinstance(value, datetime):
        raise ValueError(f"{value!r:.40} is not a time")
    return value


def _to_day(value: object) -> date:
    return value if isinstance(value, date) else date.fromisoformat(str(value))


def _decode_day(row: Any) -> DailyUsage:
    try:
        models = tuple(map(_decode_model, json.loads(row.sums)))
        return DailyUsage(_to_day(row.day), int(row.turns), models)
    except DECODING_ERRORS as error:
        raise DamagedRow(
            f"the sums of usage of {row.day!r:.40} cannot be decoded ({error}); delete this row of {table.name}: the "
            f"next report makes it again"
        ) from error


def _decode_model(group: Mapping[str, Any]) -> ModelUsage:
    prompt, cached, completion, reasoning = map(int, group["unpriced_tokens"])
    return ModelUsage(
        model=from_column(group["model"]),
        requested_model=from_column(group["requested_model"]),
        sums=UsageSums(
            key=None,
            label=None,
            turns=int(group["turns"]),
            failed=int(group["failed"]),
            interrupted=int(group["interrupted"]),
            without_usage=int(group["without_usage"]),
            unpriced=int(group["unpriced"]),
            prompt_tokens=_to_whole(group["prompt_tokens"]),
            cached_tokens=_to_whole(group["cached_tokens"]),
            completion_tokens=_to_whole(group["completion_tokens"]),
            reasoning_tokens=_to_whole(group["reasoning_tokens"]),
            cost=float(group["cost"]) if group["cost"] is not None else None,
        ),
        unpriced_tokens=(prompt, cached, completion, reasoning),
        latencies={int(latency): int(times) for latency, times in group["latencies"].items()},
    )
