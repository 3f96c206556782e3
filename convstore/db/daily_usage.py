"""Keep the sums of what an owner's turns used on a past day, so that a report need not read every turn.

No turn writes a sum: two running turns never wait for one row. A report sums past days, if there are many turns to add
up. The row of a day says how many turns it is about. If the day has more or fewer, or the sums are missing, a report
reads the turns of that day. A turn that ends long after it began deletes the sums of its day.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
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
    select_day,
)
from convstore.errors import DamagedRow
from convstore.messages.storable_text import from_column
from convstore.usage.usage_report import UsageSums

_logger = logging.getLogger(__name__)

_DAYS_PER_CHECK = 31
_INSUFFICIENT_PRIVILEGE = "42501"
_COUNTS = ("turns", "failed", "interrupted", "without_usage", "unpriced")
_DAY = timedelta(days=1)

_WITHIN = (
    turns.c.owner == bindparam("owner"),
    turns.c.started_at >= bindparam("since"),
    turns.c.started_at < bindparam("until"),
)
OF_DAYS = (
    table.c.owner == bindparam("owner"),
    table.c.day >= bindparam("first"),
    table.c.day < bindparam("end"),
    table.c.sums.is_not(None),
)
_SUMMED = (
    select(table.c.day, table.c.turns, table.c.sums).where(*OF_DAYS).order_by(table.c.day).limit(bindparam("most"))
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


def begin_day(day: date) -> datetime:
    """Return the first moment of a day, in UTC."""
    return datetime.combine(day, time(), UTC)


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
    lock = _write_statement(connection.dialect.name, clears=False)
    for day in sorted(count_by_day(connection, owner, first, end)):
        connection.execute(lock, {"owner": owner, "day": day.isoformat(), "turns": 0})
    values = {"owner": owner, "first": first.isoformat(), "end": end.isoformat(), "most": NO_LIMIT}
    summed = {row.day: row.turns for row in connection.execute(_SUMMED, values)}
    try:
        counts = count_by_day(connection, owner, first, end)
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
        _logger.warning("the sums of usage of a past day stay, although a turn changed: this role may not write them")


def _clear_day(connection: Connection, owner: str, day: date) -> None:
    """Delete the sums of a day, and lock its row.

    The row is inserted if it does not exist, because another transaction may be doing the same.
    """
    clear = _write_statement(connection.dialect.name, clears=True)
    connection.execute(clear, {"owner": owner, "day": day.isoformat(), "turns": 0})


@lru_cache(maxsize=4)
def _write_statement(dialect: str, *, clears: bool) -> Any:
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
        days = {to_day(row.day): row for row in rows}
    except DECODING_ERRORS:
        return [f"the day {rows[0].day!r:.40} of the sums of usage is not a day"], None
    if not days:
        return [], None
    span = Span(begin_day(min(days)), begin_day(max(days) + _DAY))
    try:
        counts = count_by_day(connection, owner, span.since.date(), span.until.date())
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


def count_by_day(connection: Connection, owner: str, first: date, end: date) -> dict[date, int]:
    statement = _count_by_day_statement(connection.dialect.name)
    values = {"owner": owner, "since": begin_day(first), "until": begin_day(end)}
    return {to_day(row.day): row.turns for row in connection.execute(statement, values)}


@lru_cache(maxsize=2)
def _count_by_day_statement(dialect: str) -> Select[Any]:
    return select(select_day(dialect).label("day"), func.count().label("turns")).where(*_WITHIN).group_by("day")


def _sum_turns(connection: Connection, owner: str, span: Span) -> dict[date, str]:
    """Return the sums of the counted turns of each day, as they are stored."""
    values = {"owner": owner, "since": span.since, "until": span.until}
    dialect = connection.dialect.name
    counted: dict[tuple[Any, ...], dict[str, int]] = {}
    for row in connection.execute(_latencies_statement(dialect), values):
        counted.setdefault((to_day(row.day), row.model, row.requested_model), {})[str(row.latency)] = row.times
    found: dict[date, list[dict[str, Any]]] = {}
    for row in connection.execute(_sums_statement(dialect), values):
        day = to_day(row.day)
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


_MODELS = (turns.c.model, turns.c.requested_model)


@lru_cache(maxsize=2)
def _sums_statement(dialect: str) -> Select[Any]:
    """Return the statement for the sums of each day, model and requested model."""
    day = select_day(dialect).label("day")
    return select(day, *_MODELS, *SUMS, *UNPRICED_SUMS).where(*_WITHIN, COUNTED).group_by("day", *_MODELS)


@lru_cache(maxsize=2)
def _latencies_statement(dialect: str) -> Select[Any]:
    """Return the statement that counts the latencies of each day, model and requested model."""
    day = select_day(dialect).label("day")
    return (
        select(day, *_MODELS, round_latency().label("latency"), func.count().label("times"))
        .where(*_WITHIN, COUNTED, HAS_LATENCY)
        .group_by("day", *_MODELS, "latency")
    )


def _to_whole(number: float | None) -> int | None:
    return int(number) if number is not None else None


def to_day(value: object) -> date:
    return value if isinstance(value, date) else date.fromisoformat(str(value))


def decode_day(row: Any) -> DailyUsage:
    try:
        models = tuple(map(_decode_model, json.loads(row.sums)))
        return DailyUsage(to_day(row.day), int(row.turns), models)
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
