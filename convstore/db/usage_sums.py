"""What turns used, added up in the database: it returns one row for each group, however many turns there are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Date,
    Float,
    FromClause,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    or_,
    select,
)

from convstore.db.dialect import hide_from_planner
from convstore.db.tables import conversations
from convstore.db.tables import turns as table
from convstore.messages.storable_text import from_column
from convstore.usage.prices import BEGINNING_OF_TIME, TOKENS_PER_PRICE, Price, Prices
from convstore.usage.usage_report import (
    END_OF_TIME,
    Latencies,
    UsageReport,
    UsageSums,
    add_missing_costs,
    build_usage_report,
)
from convstore.values.results import TurnStatus

_MEDIAN, _P95 = 50, 95

# Turns that ended, and asked a model or keep an answer. An addition that only has an idempotency key is a turn too,
# completed and without a reply.
_COUNTED = and_(
    table.c.status != TurnStatus.RUNNING.value,
    or_(
        table.c.status != TurnStatus.COMPLETED.value,
        table.c.output_seq.is_not(None),
        table.c.purpose.is_not(None),
    ),
)
_MOST_KINDS = 500  # in one statement; SQLite limits its parameters to 32,766
_HAS_TOKENS = and_(
    table.c.prompt_tokens.is_not(None),
    table.c.prompt_tokens >= 0,
    table.c.completion_tokens.is_not(None),
    table.c.completion_tokens >= 0,
)


def _among(whole: ColumnElement[Any], part: ColumnElement[Any]) -> ColumnElement[Any]:
    # As `prices.cost` does: some servers report more cached tokens than the prompt has.
    return case((part > whole, whole), (part >= 0, part), (part < 0, 0))


_TOKENS = {
    "prompt_tokens": table.c.prompt_tokens,
    "cached_tokens": _among(table.c.prompt_tokens, table.c.cached_tokens),
    "completion_tokens": table.c.completion_tokens,
    "reasoning_tokens": _among(table.c.completion_tokens, table.c.reasoning_tokens),
}
_UNPRICED = and_(table.c.cost.is_(None), _HAS_TOKENS)

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
    """Return what turns used that began at `since` or later, and before `until`.

    Args:
        owner: the owner of the turns; None: all owners.
        prices: for turns without a stored cost.
        conversation_id: count only this conversation; a fork's shared past counts for its origin.
        by: group by model, day, conversation or owner; None: do not group.
    """
    # Both are always given, so that SQLite goes by owner and time, the order in which the rows lie in the file: by the
    # primary key they lie all over it. A conversation has few turns: there the column is hidden from the planner.
    at = table.c.started_at if conversation_id is None else hide_from_planner(table.c.started_at, BEGINNING_OF_TIME)
    where: list[ColumnElement[bool]] = [
        at >= (since or BEGINNING_OF_TIME),
        at <= END_OF_TIME if until is None else at < until,
        _COUNTED,
    ]
    if owner is not None:
        where.append(table.c.owner == owner)
    if conversation_id is not None:
        where.append(table.c.conversation_id == conversation_id)
    key = _key(connection.dialect.name, by)
    groups = _sums(connection, key, where, owner=owner if by == "conversation" else None)
    if any(group.unpriced for group in groups):
        groups = add_missing_costs(groups, _costs(connection, key, where, prices))
    latencies, total = _latencies(connection, key, where) if groups else ({}, (None, None))
    return build_usage_report(groups, latencies, total, currency=prices.currency, by=by, since=since, until=until)


def _key(dialect: str, by: str | None) -> ColumnElement[Any] | None:
    if by == "model":
        return func.coalesce(table.c.model, table.c.requested_model)
    if by == "day":
        if dialect == "sqlite":
            return func.substr(table.c.started_at, 1, 10, type_=Text())
        return cast(func.timezone("UTC", table.c.started_at), Date)
    if by == "conversation":
        return table.c.conversation_id
    if by == "owner":
        return table.c.owner
    return None


def _grouped(key: ColumnElement[Any] | None, sums: Sequence[ColumnElement[Any]], where: Where) -> Select[Any]:
    """Return a statement of sums by key; without a key it has no GROUP BY: SQLite would sort all rows for it."""
    if key is None:
        return select(null().label("key"), *sums).where(*where)
    return select(key.label("key"), *sums).where(*where).group_by("key")


def _sums(
    connection: Connection, key: ColumnElement[Any] | None, where: Where, *, owner: str | None
) -> list[UsageSums]:
    """Return what the turns of each key add up to.

    Args:
        owner: return the names of this owner's conversations as well; the keys are conversations.
    """
    is_failed = table.c.status == TurnStatus.FAILED.value
    sums = (
        func.count().label("turns"),
        _count(is_failed).label("failed"),
        _count(table.c.status == TurnStatus.INTERRUPTED.value).label("interrupted"),
        # Not `not _HAS_TOKENS`, which is NULL where a count is.
        func.count(case((or_(_HAS_TOKENS, is_failed), null()), else_=1)).label("without_usage"),
        _count(_UNPRICED).label("unpriced"),
        # As floats, which are exact to 2**53 and do not overflow: providers have reported counts near 2**63.
        *(func.sum(cast(tokens, Float)).label(name) for name, tokens in _TOKENS.items()),
        func.sum(table.c.cost).label("cost"),
    )
    statement = _grouped(key, sums, where)
    if owner is not None:
        found = statement.subquery("found")
        statement = (
            select(found, conversations.c.name, conversations.c.title)
            .select_from(found)
            .outerjoin(conversations, and_(conversations.c.owner == owner, conversations.c.id == found.c.key))
        )
    return [_read(row._mapping) for row in connection.execute(statement) if row.turns]


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((condition, 1)))


def _read(row: Any) -> UsageSums:
    name, title = row.get("name"), row.get("title")
    return UsageSums(
        key=_text(row["key"]),
        label=name if name is not None else from_column(title),
        turns=row["turns"],
        failed=row["failed"],
        interrupted=row["interrupted"],
        without_usage=row["without_usage"],
        unpriced=row["unpriced"],
        **{name: int(row[name]) if row[name] is not None else None for name in _TOKENS},
        cost=float(row["cost"]) if row["cost"] is not None else None,
    )


def _text(key: object) -> str | None:
    return from_column(str(key)) if key is not None else None


def _costs(
    connection: Connection, key: ColumnElement[Any] | None, where: Where, prices: Prices
) -> dict[str | None, tuple[int, float]]:
    """Return for each key the number of turns with a price and without a stored cost, and what they cost."""
    kinds = _priced_kinds(connection, where, prices)
    found: dict[str | None, tuple[int, float]] = {}
    for first in range(0, len(kinds), _MOST_KINDS):
        some = kinds[first : first + _MOST_KINDS]
        prompt, cached, completion, reasoning = (func.coalesce(tokens, 0) for tokens in _TOKENS.values())
        cost = (
            (prompt - cached) * _rate(some, "prompt")
            + cached * _rate(some, "cached")
            + (completion - reasoning) * _rate(some, "completion")
            + reasoning * _rate(some, "reasoning")
        )
        sums = (func.count(cost).label("turns"), func.sum(cost).label("cost"))
        statement = _grouped(key, sums, [*where, _UNPRICED])
        for row in connection.execute(statement):
            turns, so_far = found.get(_text(row.key), (0, 0.0))
            found[_text(row.key)] = (turns + row.turns, so_far + (row.cost or 0.0) / TOKENS_PER_PRICE)
    return found


Kind: TypeAlias = tuple[ColumnElement[bool], Price]
"""A condition for turns, and the price of their tokens."""


def _priced_kinds(connection: Connection, where: Where, prices: Prices) -> list[Kind]:
    """Return the kinds of turns, by model and time, that have a price and no stored cost."""
    moments = [BEGINNING_OF_TIME, *prices.change_moments]
    epoch = case(
        *((table.c.started_at >= moment, number) for number, moment in reversed(list(enumerate(moments)))), else_=0
    )
    statement = select(table.c.model, table.c.requested_model, epoch.label("epoch")).where(*where, _UNPRICED).distinct()
    kinds = []
    for row in connection.execute(statement) if prices.has_prices else ():
        price = prices.find_price(from_column(row.model), from_column(row.requested_model), moments[row.epoch])
        if price is not None:
            is_of = [_is(table.c.model, row.model), _is(table.c.requested_model, row.requested_model)]
            if row.epoch > 0:
                is_of.append(table.c.started_at >= moments[row.epoch])
            if row.epoch + 1 < len(moments):
                is_of.append(table.c.started_at < moments[row.epoch + 1])
            kinds.append((and_(*is_of), price))
    return kinds


def _is(column: ColumnElement[Any], value: str | None) -> ColumnElement[bool]:
    return column.is_(None) if value is None else column == value


def _rate(kinds: Sequence[Kind], of: str) -> ColumnElement[Any]:
    return case(*((is_of, literal(getattr(price, of), Float)) for is_of, price in kinds))


def _latencies(
    connection: Connection, key: ColumnElement[Any] | None, where: Where
) -> tuple[dict[str | None, Latencies], Latencies]:
    """Return the latencies of each key's completed turns, and of all turns, by nearest rank.

    Among n latencies, the percentile is the ceil(n × percent)th. They are counted by how often each occurs: there are
    fewer latencies than turns, and both databases add whole numbers alike.
    """
    often = (
        select(
            (key if key is not None else cast(null(), Text)).label("key"),
            table.c.latency_ms.label("latency"),
            func.count().label("times"),
        )
        .where(*where, table.c.status == TurnStatus.COMPLETED.value, table.c.latency_ms.is_not(None))
        .group_by("key", "latency")
        .cte("often")
    )
    altogether = (
        select(often.c.latency, func.sum(often.c.times).label("times")).group_by(often.c.latency).subquery("altogether")
    )
    of_all = _percentiles(altogether, None)
    if key is None:
        (row,) = connection.execute(of_all)
        return {}, _seconds(row)
    rows = connection.execute(_percentiles(often, often.c.key).union_all(of_all)).all()
    return {_text(row.key): _seconds(row) for row in rows if not row.is_total}, next(
        _seconds(row) for row in rows if row.is_total
    )


def _percentiles(often: FromClause, key: ColumnElement[Any] | None) -> Select[Any]:
    ranked = select(
        *([key] if key is not None else []),
        often.c.latency,
        func.sum(often.c.times).over(partition_by=key, order_by=often.c.latency).label("rank"),
        func.sum(often.c.times).over(partition_by=key).label("of"),
    ).subquery()
    values: list[ColumnElement[Any]] = [
        func.min(case((ranked.c.rank * 100 >= ranked.c.of * percent, ranked.c.latency))).label(name)
        for name, percent in (("median", _MEDIAN), ("p95", _P95))
    ]
    if key is None:
        return select(null().label("key"), literal(1).label("is_total"), *values)
    return select(ranked.c.key, literal(0).label("is_total"), *values).group_by(ranked.c.key)


def _seconds(row: Any) -> Latencies:
    return (row.median / 1000, row.p95 / 1000) if row.median is not None else (None, None)
