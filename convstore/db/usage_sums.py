"""Add up what turns used.

The database adds up. It returns one row for each group, whatever the number of turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Float, FromClause, Select, Text, and_, case, cast, func, literal, null, select

from convstore.db.connection import Connection
from convstore.db.daily_usage import DailyUsage, ModelUsage, Span, begin_day
from convstore.db.dialect import hide_from_planner
from convstore.db.row_errors import DECODING_ERRORS
from convstore.db.tables import conversations
from convstore.db.tables import turns as table
from convstore.db.usage_columns import COUNTED, HAS_LATENCY, SUMS, TOKENS, UNPRICED, make_key, round_latency
from convstore.db.usage_plan import UsagePlan
from convstore.errors import DamagedRow
from convstore.messages.storable_text import from_column
from convstore.usage.prices import BEGINNING_OF_TIME, TOKENS_PER_PRICE, Price, Prices
from convstore.usage.usage_report import (
    END_OF_TIME,
    Latencies,
    UsageReport,
    UsageSums,
    add_missing_costs,
    build_usage_report,
    find_percentiles,
    merge_sums,
)

_MOST_KINDS = 500  # in one statement; SQLite limits its parameters to 32,766

Where: TypeAlias = Sequence[ColumnElement[bool]]


def report(
    connection: Connection,
    owner: str | None,
    prices: Prices,
    *,
    conversation_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    by: str | None = None,
) -> UsageReport:
    """Return what the turns from `since` to before `until` used.

    Args:
        owner: the owner of the turns; None: all owners.
        prices: for turns without a stored cost.
        conversation_id: count only this conversation; a fork's shared past counts for its origin.
        by: group by model, day, conversation or owner; None: do not group.
    """
    where = _limit(owner, conversation_id, Span(since or BEGINNING_OF_TIME, until or END_OF_TIME))
    key = make_key(connection.dialect.name, by)
    with _naming_damage():
        groups = _read_sums(connection, key, where, prices, owner=owner if by == "conversation" else None)
        latencies, total = _read_latencies(connection, key, where) if groups else ({}, (None, None))
    return build_usage_report(groups, latencies, total, currency=prices.currency, by=by, since=since, until=until)


def report_days(
    connection: Connection,
    owner: str,
    prices: Prices,
    plan: UsagePlan,
    *,
    since: datetime | None,
    until: datetime | None,
    by: str | None,
) -> UsageReport:
    """Return the same with the sums of past days; only the turns of the other spans are read.

    Args:
        plan: the days with sums, and the other spans.
        by: group by model or day; None: do not group.
    """
    with _naming_damage():
        groups, latencies, total = _add_days(connection, owner, prices, plan, by)
    return build_usage_report(groups, latencies, total, currency=prices.currency, by=by, since=since, until=until)


@contextmanager
def _naming_damage() -> Iterator[None]:
    try:
        yield
    except DECODING_ERRORS as error:
        raise DamagedRow(f"the model, tokens, cost or latency of a turn cannot be added up ({error})") from error


def _limit(owner: str | None, conversation_id: str | None, span: Span) -> Where:
    """Return the conditions for the turns of a report."""
    # Both limits are always given, so that SQLite uses the index of owner and time. The rows of the file are in the
    # order of time; in the order of the primary key they would be read from all over the file. For one conversation,
    # which has few turns, the column is hidden from the planner, so that the primary key is used.
    at = table.c.started_at if conversation_id is None else hide_from_planner(table.c.started_at, BEGINNING_OF_TIME)
    where = [at >= span.since, at <= END_OF_TIME if span.until == END_OF_TIME else at < span.until, COUNTED]
    if owner is not None:
        where.append(table.c.owner == owner)
    if conversation_id is not None:
        where.append(table.c.conversation_id == conversation_id)
    return where


def _add_days(
    connection: Connection, owner: str, prices: Prices, plan: UsagePlan, by: str | None
) -> tuple[list[UsageSums], dict[str | None, Latencies], Latencies]:
    """Return the sums and latencies of days with sums, and of the turns of the other spans."""
    key = make_key(connection.dialect.name, by)
    groups: dict[str | None, list[UsageSums]] = {}
    times: dict[str | None, Counter[int]] = {}
    spans = list(plan.spans)
    for day in plan.days:
        if _has_new_price(day, prices):
            spans.append(Span(begin_day(day.day), begin_day(day.day + timedelta(days=1))))
            continue
        for usage in day.models:
            name = _name_group(day, usage, by)
            groups.setdefault(name, []).append(replace(_add_cost(day, usage, prices), key=name))
            times.setdefault(name, Counter()).update(usage.latencies)
    for span in spans:
        where = _limit(owner, None, span)
        found = _read_sums(connection, key, where, prices)
        for group in found:
            groups.setdefault(group.key, []).append(group)
        if not found:
            continue
        for name, latencies in _count_latencies(connection, key, where).items():
            times.setdefault(name, Counter()).update(latencies)
    total: Counter[int] = Counter()
    for counted in times.values():
        total.update(counted)
    return (
        [merge_sums(name, some) for name, some in groups.items()],
        {name: find_percentiles(counted) for name, counted in times.items()},
        find_percentiles(total),
    )


def _has_new_price(day: DailyUsage, prices: Prices) -> bool:
    """Return True if turns of the day need a price, and a price changes in the course of the day."""
    begin = begin_day(day.day)
    changes = any(begin < moment < begin + timedelta(days=1) for moment in prices.change_moments)
    return changes and any(usage.sums.unpriced for usage in day.models)


def _name_group(day: DailyUsage, usage: ModelUsage, by: str | None) -> str | None:
    if by == "model":
        return usage.model if usage.model is not None else usage.requested_model
    return day.day.isoformat() if by == "day" else None


def _add_cost(day: DailyUsage, usage: ModelUsage, prices: Prices) -> UsageSums:
    """Return the sums with the cost of the turns that have no stored cost, if their price is known."""
    sums = usage.sums
    price = prices.find_price(usage.model, usage.requested_model, begin_day(day.day)) if sums.unpriced else None
    if price is None:
        return sums
    prompt, cached, completion, reasoning = usage.unpriced_tokens
    amount = price.compute_amount(prompt=prompt, cached=cached, completion=completion, reasoning=reasoning)
    return replace(sums, unpriced=0, cost=(sums.cost or 0.0) + amount)


def _group_sums(key: ColumnElement[Any] | None, sums: Sequence[ColumnElement[Any]], where: Where) -> Select[Any]:
    """Return a statement of sums by key.

    Without a key there is no GROUP BY, because SQLite would sort all rows for it.
    """
    if key is None:
        return select(null().label("key"), *sums).where(*where)
    return select(key.label("key"), *sums).where(*where).group_by("key")


def _read_sums(
    connection: Connection,
    key: ColumnElement[Any] | None,
    where: Where,
    prices: Prices,
    *,
    owner: str | None = None,
) -> list[UsageSums]:
    """Return the sums over the turns of each key.

    Args:
        prices: for turns without a stored cost.
        owner: if given, the keys are conversations of this owner, and their names are returned too.
    """
    statement = _group_sums(key, SUMS, where)
    if owner is not None:
        found = statement.subquery("found")
        statement = (
            select(found, conversations.c.name, conversations.c.title)
            .select_from(found)
            .outerjoin(conversations, and_(conversations.c.owner == owner, conversations.c.id == found.c.key))
        )
    groups = [_decode_sums(row._mapping) for row in connection.plain.execute(statement) if row.turns]
    if any(group.unpriced for group in groups):
        groups = add_missing_costs(groups, _compute_costs(connection, key, where, prices))
    return groups


def _decode_sums(row: Any) -> UsageSums:
    name, title = row.get("name"), row.get("title")
    return UsageSums(
        key=_to_text(row["key"]),
        label=name if name is not None else from_column(title),
        turns=row["turns"],
        failed=row["failed"],
        interrupted=row["interrupted"],
        without_usage=row["without_usage"],
        unpriced=row["unpriced"],
        **{name: int(row[name]) if row[name] is not None else None for name in TOKENS},
        cost=float(row["cost"]) if row["cost"] is not None else None,
    )


def _to_text(key: object) -> str | None:
    return from_column(str(key)) if key is not None else None


def _compute_costs(
    connection: Connection, key: ColumnElement[Any] | None, where: Where, prices: Prices
) -> dict[str | None, tuple[int, float]]:
    """Return the costs of turns with a known price and no stored cost.

    For each key, it is the number of these turns and the sum of their costs.
    """
    kinds = _find_priced_kinds(connection, where, prices)
    found: dict[str | None, tuple[int, float]] = {}
    for first in range(0, len(kinds), _MOST_KINDS):
        some = kinds[first : first + _MOST_KINDS]
        prompt, cached, completion, reasoning = (func.coalesce(tokens, 0) for tokens in TOKENS.values())
        cost = (
            (prompt - cached) * _select_rate(some, "prompt")
            + cached * _select_rate(some, "cached")
            + (completion - reasoning) * _select_rate(some, "completion")
            + reasoning * _select_rate(some, "reasoning")
        )
        sums = (func.count(cost).label("turns"), func.sum(cost).label("cost"))
        statement = _group_sums(key, sums, [*where, UNPRICED])
        for row in connection.plain.execute(statement):
            turns, so_far = found.get(_to_text(row.key), (0, 0.0))
            found[_to_text(row.key)] = (turns + row.turns, so_far + (row.cost or 0.0) / TOKENS_PER_PRICE)
    return found


Kind: TypeAlias = tuple[ColumnElement[bool], Price]
"""A condition for turns, and the price of their tokens."""


def _find_priced_kinds(connection: Connection, where: Where, prices: Prices) -> list[Kind]:
    """Return the kinds of turns, by model and time, with a price and no stored cost."""
    moments = [BEGINNING_OF_TIME, *prices.change_moments]
    epoch = case(
        *((table.c.started_at >= moment, number) for number, moment in reversed(list(enumerate(moments)))), else_=0
    )
    statement = select(table.c.model, table.c.requested_model, epoch.label("epoch")).where(*where, UNPRICED).distinct()
    kinds = []
    for row in connection.plain.execute(statement) if prices.has_prices else ():
        price = prices.find_price(from_column(row.model), from_column(row.requested_model), moments[row.epoch])
        if price is not None:
            is_of = [_equals(table.c.model, row.model), _equals(table.c.requested_model, row.requested_model)]
            if row.epoch > 0:
                is_of.append(table.c.started_at >= moments[row.epoch])
            if row.epoch + 1 < len(moments):
                is_of.append(table.c.started_at < moments[row.epoch + 1])
            kinds.append((and_(*is_of), price))
    return kinds


def _equals(column: ColumnElement[Any], value: str | None) -> ColumnElement[bool]:
    return column.is_(None) if value is None else column == value


def _select_rate(kinds: Sequence[Kind], of: str) -> ColumnElement[Any]:
    return case(*((is_of, literal(getattr(price, of), Float)) for is_of, price in kinds))


def _count_latencies(
    connection: Connection, key: ColumnElement[Any] | None, where: Where
) -> dict[str | None, dict[int, int]]:
    """Return how many completed turns of each key had a latency, by rounded milliseconds."""
    columns = ((key if key is not None else cast(null(), Text)).label("key"), round_latency().label("latency"))
    statement = select(*columns, func.count().label("times")).where(*where, HAS_LATENCY).group_by("key", "latency")
    found: dict[str | None, dict[int, int]] = {}
    for row in connection.plain.execute(statement):
        found.setdefault(_to_text(row.key), {})[row.latency] = row.times
    return found


def _read_latencies(
    connection: Connection, key: ColumnElement[Any] | None, where: Where
) -> tuple[dict[str | None, Latencies], Latencies]:
    """Return the latencies of completed turns, for each key and for all turns.

    A percentile is the nearest rank: of n latencies, the ceil(n × percent)th. The statement counts how often each
    latency occurs, because there are fewer latencies than turns, and both databases add whole numbers in the same way.
    """
    often = (
        select(
            (key if key is not None else cast(null(), Text)).label("key"),
            table.c.latency_ms.label("latency"),
            func.count().label("times"),
        )
        .where(*where, HAS_LATENCY)
        .group_by("key", "latency")
        .cte("often")
    )
    altogether = (
        select(often.c.latency, func.sum(often.c.times).label("times")).group_by(often.c.latency).subquery("altogether")
    )
    of_all = _select_percentiles(altogether, None)
    if key is None:
        (row,) = connection.plain.execute(of_all)
        return {}, _to_latencies(row)
    rows = connection.plain.execute(_select_percentiles(often, often.c.key).union_all(of_all)).all()
    return {_to_text(row.key): _to_latencies(row) for row in rows if not row.is_total}, next(
        _to_latencies(row) for row in rows if row.is_total
    )


def _select_percentiles(often: FromClause, key: ColumnElement[Any] | None) -> Select[Any]:
    ranked = select(
        *([key] if key is not None else []),
        often.c.latency,
        func.sum(often.c.times).over(partition_by=key, order_by=often.c.latency).label("rank"),
        func.sum(often.c.times).over(partition_by=key).label("of"),
    ).subquery()
    values: list[ColumnElement[Any]] = [
        func.min(case((ranked.c.rank * 100 >= ranked.c.of * percent, ranked.c.latency))).label(name)
        for name, percent in (("median", 50), ("p95", 95))
    ]
    if key is None:
        return select(null().label("key"), literal(1).label("is_total"), *values)
    return select(ranked.c.key, literal(0).label("is_total"), *values).group_by(ranked.c.key)


def _to_latencies(row: Any) -> Latencies:
    return (row.median / 1000, row.p95 / 1000) if row.median is not None else (None, None)
