"""Stopping a turn from elsewhere: ask its process to end it, and take the conversation if it does not."""

from __future__ import annotations

import time
from functools import partial

from convstore.db.lease_rows import Holder, read_holder, request_stop
from convstore.db.transactions import Transactions
from convstore.db.unit_of_work import UnitOfWork
from convstore.leases.takeover import is_dead, take_stopped
from convstore.leases.waiting import repeat_while_locked, yield_pauses
from convstore.values.identifiers import ConversationKey
from convstore.values.steps import DatabaseWork, Pause, Steps


def stop(transactions: Transactions, key: ConversationKey, seconds: float) -> Steps[bool]:
    """End the running turn of a conversation, and return whether a turn was running.

    Args:
        seconds: how long the turn's process has to end it; then the conversation is taken from it.
    """
    deadline = time.monotonic() + seconds
    ask = DatabaseWork(partial(transactions.write, _ask_to_stop, key))
    holder: Holder | None = yield from repeat_while_locked(ask)
    if holder is None:
        return False
    for pause in yield_pauses(deadline):
        if not (yield DatabaseWork(partial(transactions.read, _still_holds, key, holder))):
            return True
        yield Pause(pause)
    yield from repeat_while_locked(DatabaseWork(partial(transactions.write, take_stopped, key, holder)))
    return True


def _ask_to_stop(work: UnitOfWork, key: ConversationKey) -> Holder | None:
    """Ask for the end of the running turn, and return the turn; one that is dead is ended at once."""
    holder = read_holder(work.connection, key, work.now)
    if holder is not None:
        request_stop(work.connection, key, holder.turn, work.now)
        if is_dead(work, holder):
            take_stopped(work, key, holder)
    return holder


def _still_holds(work: UnitOfWork, key: ConversationKey, holder: Holder) -> bool:
    now = read_holder(work.connection, key, work.now)
    return now is not None and now.token == holder.token
