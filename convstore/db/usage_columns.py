"""Write the expressions over rows of turns that reports of usage add up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Date, DateTime, Float, Text, and_, case, cast, func, null, or_

from convstore.db.tables import turns as table
from convstore.values.results import TurnStatus

# Turns that ended and called a model, or that store an answer. An `append` with an idempotency key is a turn too: it is
# completed and has no reply, so it is not counted.
COUNTED = and_(
    table.c.status != TurnStatus.RUNNING.value,
    or_(
        table.c.status != TurnStatus.COMPLETED.value,
        table.c.output_seq.is_not(None),
        table.c.purpose.is_not(None),
    ),
)
HAS_LATENCY = and_(table.c.status == TurnStatus.COMPLETED.value, table.c.latency_ms.is_not(None))
_HAS_TOKENS = and_(
    table.c.prompt_tokens.is_not(None),
    table.c.prompt_tokens >= 0,
    table.c.completion_tokens.is_not(None),
    table.c.completion_tokens >= 0,
)
UNPRICED = and_(table.c.cost.is_(None), _HAS_TOKENS)
"""The condition for turns with a stored token count and without a stored cost."""


def _limit_part(whole: ColumnElement[Any], part: ColumnElement[Any]) -> ColumnElement[Any]:
    # Some servers report more cached tokens than the prompt has; `prices.compute_cost` limits them in the same way.
    return case((part > whole, whole), (part >= 0, part), (part < 0, 0))


TOKENS = {
    "prompt_tokens": table.c.prompt_tokens,
    "cached_tokens": _limit_part(table.c.prompt_tokens, table.c.cached_tokens),
    "completion_tokens": table.c.completion_tokens,
    "reasoning_tokens": _limit_part(table.c.completion_tokens, table.c.reasoning_tokens),
}


def _count_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((condition, 1)))


def _add_up(number: ColumnElement[Any]) -> ColumnElement[Any]:
    # As floats, because providers have reported counts near 2**63. Floats do not overflow, and are exact to 2**53.
    return func.sum(cast(number, Float))


_IS_FAILED = table.c.status == TurnStatus.FAILED.value
SUMS: tuple[ColumnElement[Any], ...] = (
    func.count().label("turns"),
    _count_if(_IS_FAILED).label("failed"),
    _count_if(table.c.status == TurnStatus.INTERRUPTED.value).label("interrupted"),
    # Failed turns are left out, because they have no reply.
    func.count(case((or_(_HAS_TOKENS, _IS_FAILED), null()), else_=1)).label("without_usage"),
    _count_if(UNPRICED).label("unpriced"),
    *(_add_up(tokens).label(name) for name, tokens in TOKENS.items()),
    func.sum(table.c.cost).label("cost"),
)
"""The sums over a group of turns."""

UNPRICED_SUMS = tuple(_add_up(case((UNPRICED, tokens))).label(f"unpriced_{name}") for name, tokens in TOKENS.items())
"""The sums of the tokens of those turns of a group that have no stored cost."""


def select_day(dialect: str) -> ColumnElement[Any]:
    """Return the expression for the day (UTC) on which a turn began: a date, on SQLite its text."""
    if dialect == "sqlite":
        return func.substr(table.c.started_at, 1, 10, type_=Text())
    return cast(func.timezone("UTC", table.c.started_at), Date)


def select_bounds(dialect: str, day: ColumnElement[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return the expressions for the first moment of a day, given as text, and for the first one after it."""
    if dialect == "sqlite":
        # Moments are stored as texts. In each, a space follows the day, and `!` is the next character after the space.
        return day, day + "!"
    begin = cast(day, DateTime())
    return func.timezone("UTC", begin), func.timezone("UTC", begin + timedelta(days=1))


# Beginning and width of the ranges in which latencies are counted: at most 2.5 % of the latency, exact below 100 ms.
_WIDTHS = [
    (limit * 10**power, width * 10**power) for power in range(7) for limit, width in ((100, 2), (200, 5), (500, 10))
]


def round_latency() -> ColumnElement[Any]:
    """Return the expression for a latency in milliseconds, rounded by at most 1.25 %.

    So the number of different latencies is limited, whatever the number of turns.
    """
    latency = table.c.latency_ms
    return case(
        *((latency >= limit, (latency + width // 2) // width * width) for limit, width in reversed(_WIDTHS)),
        else_=latency,
    )


def make_key(dialect: str, by: str | None) -> ColumnElement[Any] | None:
    """Return the expression by which a report groups turns; None: it does not group them."""
    if by == "model":
        return func.coalesce(table.c.model, table.c.requested_model)
    if by == "day":
        return select_day(dialect)
    if by == "conversation":
        return table.c.conversation_id
    if by == "owner":
        return table.c.owner
    return None
