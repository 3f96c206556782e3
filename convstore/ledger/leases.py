"""Leases: which turn holds a conversation, and until when.

A turn takes its conversation by one conditional update, under a fresh random token; whatever it writes later is fenced
by that token. Expiry is judged by the database's clock on PostgreSQL, where callers come from many machines, and by the
host's on SQLite.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Interval, bindparam, func, null, select, update

from convstore.errors import ConversationBusy, ConversationNotFound, DamagedRow
from convstore.ledger.models import UtcDateTime, turns
from convstore.ledger.models import conversations as table
from convstore.messages import to_json

_KEY = (table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"))
_LIVING = (*_KEY, table.c.deleted_at.is_(None))


@dataclass(frozen=True, slots=True)
class Claim:
    """A conversation taken for a turn: the numbers given to it, and what it starts from."""

    turn: int
    first_seq: int
    head_seq: int
    settings: dict[str, Any]


@cache
def _claim_statement(dialect: str) -> Any:
    return (
        update(table)
        .where(*_LIVING, table.c.lease_token.is_(None))
        .values(
            running_turn=table.c.next_turn,
            next_turn=table.c.next_turn + 1,
            next_seq=table.c.next_seq + bindparam("count"),
            lease_token=bindparam("token"),
            lease_expires_at=_expiry(dialect),
        )
        .returning(table.c.running_turn, table.c.next_seq, table.c.head_seq, table.c.settings)
    )


@cache
def _state_statement(dialect: str) -> Any:
    return select(
        table.c.running_turn, table.c.lease_token, (table.c.lease_expires_at < _now(dialect)).label("expired")
    ).where(*_LIVING)


@cache
def _renew_statement(dialect: str) -> Any:
    return (
        update(table).where(*_KEY, table.c.lease_token == bindparam("token")).values(lease_expires_at=_expiry(dialect))
    )


_RELEASE = (
    update(table)
    .where(*_KEY, table.c.lease_token == bindparam("token"))
    .values(running_turn=null(), lease_token=null(), lease_expires_at=null())
)
_ABANDON = (
    update(turns)
    .where(
        turns.c.owner == bindparam("key_owner"),
        turns.c.conversation_id == bindparam("key_id"),
        turns.c.seq == bindparam("turn"),
        turns.c.status == "running",
    )
    .values(status="interrupted", ended_at=bindparam("now"), error=bindparam("reason"))
)
_ABANDONED = {
    "type": "Abandoned",
    "message": "the process that ran this turn ended, or lost its database, before the turn was over",
}


def _now(dialect: str) -> ColumnElement[datetime]:
    if dialect == "sqlite":
        return bindparam("now", type_=UtcDateTime())
    return func.clock_timestamp(type_=UtcDateTime())


def _expiry(dialect: str) -> ColumnElement[datetime]:
    if dialect == "sqlite":
        return bindparam("expires_at", type_=UtcDateTime())
    return func.clock_timestamp(type_=UtcDateTime()) + bindparam("span", type_=Interval())


def claim(
    connection: Connection,
    owner: str,
    id: str,
    *,
    token: str,
    count: int,
    span: timedelta,
    now: datetime,
) -> Claim:
    """Take a conversation for a turn, and `count` numbers for its messages.

    A turn whose lease has run out is marked as interrupted first.

    Raises:
        ConversationNotFound: there is none with this id.
        ConversationBusy: another turn holds it.
    """
    dialect = connection.dialect.name
    values: dict[str, Any] = {"key_owner": owner, "key_id": id, "token": token, "count": count}
    values |= {"expires_at": now + span} if dialect == "sqlite" else {"span": span}
    while True:
        row = connection.execute(_claim_statement(dialect), values).one_or_none()
        if row is not None:
            return Claim(row.running_turn, row.next_seq - count, row.head_seq, read_settings(row.settings, id))
        free(connection, owner, id, now)


def free(connection: Connection, owner: str, id: str, now: datetime) -> None:
    """Make sure that no turn holds the conversation; a lease that has run out is taken away.

    Raises:
        ConversationNotFound: there is none with this id.
        ConversationBusy: a turn holds it.
    """
    dialect = connection.dialect.name
    clock = {"now": now} if dialect == "sqlite" else {}
    state = connection.execute(_state_statement(dialect), {"key_owner": owner, "key_id": id, **clock}).one_or_none()
    if state is None:
        raise ConversationNotFound(f"no conversation {id!r}; see `convstore list`")
    if state.lease_token is None:
        return
    if not state.expired:
        raise ConversationBusy(
            f"conversation {id} is busy: turn {state.running_turn} is running; try again when it has ended"
        )
    released = connection.execute(_RELEASE, {"key_owner": owner, "key_id": id, "token": state.lease_token})
    if released.rowcount:
        connection.execute(
            _ABANDON,
            {"key_owner": owner, "key_id": id, "turn": state.running_turn, "now": now, "reason": to_json(_ABANDONED)},
        )


def is_held(connection: Connection, owner: str, id: str, now: datetime) -> bool:
    """Whether a turn holds the conversation. Only reads: what a waiting caller asks again and again."""
    dialect = connection.dialect.name
    clock = {"now": now} if dialect == "sqlite" else {}
    state = connection.execute(_state_statement(dialect), {"key_owner": owner, "key_id": id, **clock}).one_or_none()
    return state is not None and state.lease_token is not None and not state.expired


def renew(connection: Connection, owner: str, id: str, *, token: str, span: timedelta, now: datetime) -> bool:
    """Prolong a lease by `span` from now, and return whether this token still held it."""
    dialect = connection.dialect.name
    clock = {"expires_at": now + span} if dialect == "sqlite" else {"span": span}
    values = {"key_owner": owner, "key_id": id, "token": token, **clock}
    return bool(connection.execute(_renew_statement(dialect), values).rowcount)


def read_settings(column: str, id: str) -> dict[str, Any]:
    """Return a conversation's sticky parameters from their column.

    Raises:
        DamagedRow: the column is not a JSON object.
    """
    try:
        settings = json.loads(column)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise DamagedRow(f"conversation {id}: its settings are not a JSON object; restore this row from a backup")
    return settings
