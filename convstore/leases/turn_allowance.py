"""Begin a turn only if its owner may: not too many run at one time, and not too many tokens were used today."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from convstore.db.turn_counts import count_tokens, list_running_leases, lock_owner
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import TurnLimitReached
from convstore.values.api_key import TurnAllowance
from convstore.values.results import Turn

R = TypeVar("R")

_RETRY_SECONDS = 1.0
"""When to ask again if too many turns run: one may end at any moment."""


def begin_within(work: UnitOfWork, owner: str, allowance: TurnAllowance, begin: Callable[[], R]) -> R:
    """Return what `begin` returns; raise an error, so that the transaction is rolled back, if the owner may not.

    The check comes after the turn has begun: a request that repeats an earlier one gets that turn, and begins none.

    Args:
        begin: begins a turn in this transaction; or returns an earlier `Turn`.

    Raises:
        TurnLimitReached: too many turns run, or too many tokens were used today.
    """
    if allowance.max_turns is not None:
        lock_owner(work.connection, owner)
    begun = begin()
    if not isinstance(begun, Turn):
        _check_running(work, owner, allowance.max_turns)
        _check_tokens(work, owner, allowance.max_tokens_a_day)
    return begun


def _check_running(work: UnitOfWork, owner: str, most: int | None) -> None:
    if most is None:
        return
    tokens = list_running_leases(work.connection, owner, work.now)
    # The lease of a process that was killed on this host lasts a while; its turn runs no more.
    if len(tokens) > most and sum(work.is_alive(token) is not False for token in tokens) > most:
        raise TurnLimitReached(
            f"as many turns run as may run at one time ({most}); try again when one has ended", _RETRY_SECONDS
        )


def _check_tokens(work: UnitOfWork, owner: str, most: int | None) -> None:
    if most is None:
        return
    midnight = find_midnight(work.now)
    if count_tokens(work.connection, owner, midnight) >= most:
        left = midnight + timedelta(days=1) - work.now
        raise TurnLimitReached(
            f"the tokens of this day ({most}) are used; the next day begins at midnight UTC", left.total_seconds()
        )


def find_midnight(moment: datetime) -> datetime:
    """Return the beginning of a moment's day in UTC."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
