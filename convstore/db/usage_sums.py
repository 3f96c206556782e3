"""Add up what turns used.

The database adds up. It returns one row for each group, whatever the number of turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
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

from convstore.db.connection import Connection
from convstore.db.dialect import hide_from_planner
from convstore.db.row_errors import DECODING_ERRORS
from convstore.db.tables import conversations
from convstore.db.tables import turns as table
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
)
from convstore.values.results import TurnStatus

_MEDIAN, _P95 = 50, 95

# Turns that ended and called a model, or that store an answer. An `append` with an idempotency key is a turn too: it is
# completed and has no reply, so it is not counted.
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


def _limit_part(whole: ColumnElement[Any], part: ColumnElement[Any]) -> ColumnElement[Any]:
    # Some servers report more cached tokens than the prompt has; `prices.compute_cost` limits them in the same way.
    return case((part > whole, whole), (part >= 0, part), (part < 0, 0))


_TOKENS = {
    "prompt_tokens": table.c.prompt_tokens,
    "cached_tokens": _limit_part(table.c.prompt_tokens, table.c.cached_tokens),
    "completion_tokens": table.c.completion_tokens,
    "reasoning_tokens": _limit_part(table.c.completion_tokens, table.c.reasoning_tokens),
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
    """Return what the turns from `since` to before `until` used.

    Args:
        owner: the owner of the turns; None: all owners.
        prices: for turns without a stored cost.
        conversation_id: count only this conversation; a fork's shared past counts for its origin.
        by: group by model, day, conversation or owner; None: do not group.
    """
    # Both limits are always given, so that SQLite uses the index of owner and time. The rows of the file are in the
    # order of time; in the order of the primary key they would be read from all over the file. For one conversation,
    # which has few turns, the column is hidden from the planner, so that the primary key is used.
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
    key = _make_key(connection.dialect.name, by)
    try:
        groups = _read_sums(connection, key, where, owner=owner if by == "conversation" else None)
        if any(group.unpriced for group in groups):
            groups = add_missing_costs(groups, _compute_costs(connection, key, where, prices))
        latencies, total = _read_latencies(connection, key, where) if groups else ({}, (None, None))
    except DECODING_ERRORS as error:
        raise DamagedRow(f"the model, tokens, cost or latency of a turn cannot be added up ({error})") from error
    return build_usage_report(groups, latencies, total, currency=prices.currency, by=by, since=since, until=until)


def _make_key(dialect: str, by: str | None) -> ColumnElement[Any] | None:
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


def _group_sums(key: ColumnElement[Any] | None, sums: Sequence[ColumnElement[Any]], where: Where) -> Select[Any]:
    """Return a statement of sums by key.

    Without a key there is no GROUP BY, because SQLite would sort all rows for it.
    """
    if key is None:
        return select(null().label("key"), *sums).where(*where)
    return select(key.label("key"), *sums).where(*where).group_by("key")


def _read_sums(
    connection: Connection, key: ColumnElement[Any] | None, where: Where, *, owner: str | None
) -> list[UsageSums]:
    """Return the sums over the turns of each key.

    Args:
        owner: if given, the keys are conversations of this owner, and their names are returned too.
    """
    is_failed = table.c.status == TurnStatus.FAILED.value
    sums = (
        func.count().label("turns"),
        _count_if(is_failed).label("failed"),
        _count_if(table.c.status == TurnStatus.INTERRUPTED.value).label("interrupted"),
        # Failed turns are left out, because they have no reply.
        func.count(case((or_(_HAS_TOKENS, is_failed), null()), else_=1)).label("without_usage"),
        _count_if(_UNPRICED).label("unpriced"),
        # As floats, because providers have reported counts near 2**63. Floats do not overflow, and are exact to 2**53.
        *(func.sum(cast(tokens, Float)).label(name) for name, tokens in _TOKENS.items()),
        func.sum(table.c.cost).label("cost"),
    )
    statement = _group_sums(key, sums, where)
    if owner is not None:
        found = statement.subquery("found")
        statement = (
            select(found, conversations.c.name, conversations.c.title)
            .select_from(found)
            .outerjoin(conversations, and_(conversations.c.owner == owner, conversations.c.id == found.c.key))
        )
    return [_decode_sums(row._mapping) for row in connection.plain.execute(statement) if row.turns]


def _count_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((condition, 1)))


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
        **{name: int(row[name]) if row[name] is not None else None for name in _TOKENS},
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
        prompt, cached, completion, reasoning = (func.coalesce(tokens, 0) for tokens in _TOKENS.values())
        cost = (
            (prompt - cached) * _select_rate(some, "prompt")
            + cached * _select_rate(some, "cached")
            + (completion - reasoning) * _select_rate(some, "completion")
            + reasoning * _select_rate(some, "reasoning")
        )
        sums = (func.count(cost).label("turns"), func.sum(cost).label("cost"))
        statement = _group_sums(key, sums, [*where, _UNPRICED])
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
    statement = select(table.c.model, table.c.requested_model, epoch.label("epoch")).where(*where, _UNPRICED).distinct()
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
        .where(*where, table.c.status == TurnStatus.COMPLETED.value, table.c.latency_ms.is_not(None))
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
        for name, percent in (("median", _MEDIAN), ("p95", _P95))
    ]
    if key is None:
        return select(null().label("key"), literal(1).label("is_total"), *values)
    return select(ranked.c.key, literal(0).label("is_total"), *values).group_by(ranked.c.key)


def _to_latencies(row: Any) -> Latencies:
    return (row.median / 1000, row.p95 / 1000) if row.median is not None else (None, None)
