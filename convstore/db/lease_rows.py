"""Claim, renew and free conversations.

A turn claims its conversation with one conditional update that stores a new random token. Every later write of the turn
requires this token, so that a turn that lost its conversation cannot write to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Text, bindparam, case, func, null, select, update

from convstore.db.connection import Connection
from convstore.db.dialect import (
    current_time,
    current_time_values,
    lease_expiry,
    lease_expiry_values,
    skip_locked,
)
from convstore.db.fork_sharing import Lineage, read_lineage
from convstore.db.head_rows import Pin, decode_pins
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import conversation_not_found, damaged_row, read_json_object
from convstore.db.tables import conversations as table
from convstore.db.tables import turns
from convstore.db.turn_writes import forget_late_sums
from convstore.messages.first_title import MOST_POSITION
from convstore.messages.storable_text import to_column, to_json
from convstore.values.identifiers import ConversationKey, Position, Seq, TurnNumber

_OF_CONVERSATION = (table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"))
_LIVING = (*_OF_CONVERSATION, table.c.deleted_at.is_(None))


_CLAIMED = (
    table.c.running_turn,
    table.c.next_seq,
    table.c.head_seq,
    table.c.length,
    table.c.settings,
    table.c.lineage,
    table.c.window,
    table.c.pins,
    table.c.summary_turn,
)
_HOLDER = (table.c.running_turn, table.c.lease_token, table.c.lease_expires_at, table.c.lease_ms)
_FREED = (table.c.next_seq, table.c.lineage)
_check_claimed, _check_holder, _check_freed = RowCheck(_CLAIMED), RowCheck(_HOLDER), RowCheck(_FREED)


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease that a turn asks for."""

    token: str
    span: timedelta
    """How long the lease lasts if it is not renewed."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed conversation: the turn's numbers, and the state that it starts from."""

    turn: TurnNumber
    first_seq: Seq
    head_seq: Seq
    length: Position
    """The position of the head."""
    settings: dict[str, Any]
    lineage: Lineage
    window: dict[str, Any]
    """The sticky window options."""
    pins: tuple[Pin, ...]
    summary_turn: TurnNumber | None


@dataclass(frozen=True, slots=True)
class Holder:
    """The turn that holds a conversation."""

    turn: TurnNumber
    token: str
    expires_at: datetime | None
    """When its lease expires, by the clock of its own host on SQLite, and of the server on PostgreSQL."""
    has_expired: bool
    """Whether its lease has expired, by the clock of this host on SQLite, and of the server on PostgreSQL."""
    span_seconds: float | None
    """How long its lease lasts if it is not renewed; None: an older release claimed it."""


@cache
def _claim_statement(dialect: str) -> Any:
    free = (table.c.deleted_at.is_(None), table.c.lease_token.is_(None))
    return (
        update(table)
        .where(*skip_locked(dialect, table, _OF_CONVERSATION, free))
        .values(
            running_turn=table.c.next_turn,
            next_turn=table.c.next_turn + 1,
            next_seq=table.c.next_seq + bindparam("count"),
            made_title=case(
                (table.c.length < MOST_POSITION, func.coalesce(table.c.made_title, bindparam("new_title", type_=Text))),
                else_=table.c.made_title,
            ),
            lease_token=bindparam("token"),
            lease_expires_at=lease_expiry(dialect),
            lease_ms=bindparam("lease_ms"),
        )
        .returning(*_CLAIMED)
    )


@cache
def _holder_statement(dialect: str) -> Any:
    has_expired = (table.c.lease_expires_at < current_time(dialect)).label("has_expired")
    return select(*_HOLDER, has_expired).where(*_LIVING)


@cache
def _renew_statement(dialect: str) -> Any:
    return (
        update(table)
        .where(*_OF_CONVERSATION, table.c.lease_token == bindparam("token"))
        .values(lease_expires_at=lease_expiry(dialect), lease_ms=bindparam("lease_ms"))
    )


@cache
def _free_statement(dialect: str) -> Any:
    return (
        update(table)
        .where(*skip_locked(dialect, table, _OF_CONVERSATION, (table.c.lease_token == bindparam("token"),)))
        .values(
            running_turn=null(),
            lease_token=null(),
            lease_expires_at=null(),
            lease_ms=null(),
            next_seq=table.c.next_seq + bindparam("count"),
        )
        .returning(*_FREED)
    )


_TAKE_NUMBERS = (
    update(table)
    .where(*_OF_CONVERSATION)
    .values(next_seq=table.c.next_seq + bindparam("count"))
    .returning(table.c.next_seq)
)
_OF_TURN = (
    turns.c.owner == bindparam("key_owner"),
    turns.c.conversation_id == bindparam("key_id"),
    turns.c.seq == bindparam("turn"),
)
_RUNNING = select(turns.c.last_input_seq, turns.c.base_seq).where(*_OF_TURN)
_INTERRUPT = (
    update(turns)
    .where(*_OF_TURN, turns.c.status == "running")
    .values(status="interrupted", ended_at=bindparam("now"), error=bindparam("reason"), output_seq=bindparam("output"))
    .returning(turns.c.started_at)
)
_REQUEST_STOP = update(turns).where(*_OF_TURN, turns.c.status == "running").values(stop_requested_at=bindparam("now"))


_STOP_REQUESTED = select(turns.c.stop_requested_at).where(*_OF_TURN)


def _bind(key: ConversationKey) -> dict[str, Any]:
    return {"key_owner": key.owner, "key_id": key.id}


def _bind_lease(dialect: str, lease: Lease, now: datetime) -> dict[str, Any]:
    milliseconds = max(1, round(lease.span.total_seconds() * 1000))
    return {"token": lease.token, "lease_ms": milliseconds, **lease_expiry_values(dialect, now, lease.span)}


def claim_row(
    connection: Connection, key: ConversationKey, lease: Lease, count: int, now: datetime, *, made_title: str | None
) -> Claim | None:
    """Claim a conversation for a turn, and take `count` numbers for its messages.

    Return None if another turn holds the conversation, or it does not exist.

    Args:
        made_title: the title that the messages make, if they are the first; None: they make none.
    """
    dialect = connection.dialect.name
    values = {**_bind(key), "count": count, "new_title": to_column(made_title), **_bind_lease(dialect, lease, now)}
    row = connection.execute(_claim_statement(dialect), values).one_or_none()
    if row is None:
        return None
    _check_claimed([row], key.id)
    return Claim(
        turn=row.running_turn,
        first_seq=Seq(row.next_seq - count),
        head_seq=row.head_seq,
        length=row.length,
        settings=read_json_object(row.settings, key.id, "settings"),
        lineage=read_lineage(key, row.lineage),
        window=read_json_object(row.window, key.id, "window"),
        pins=decode_pins(row.pins, key),
        summary_turn=row.summary_turn,
    )


def read_holder(connection: Connection, key: ConversationKey, now: datetime) -> Holder | None:
    """Return the turn that holds the conversation, or None.

    Raises:
        ConversationNotFound: the owner has no such conversation.
    """
    dialect = connection.dialect.name
    values = {**_bind(key), **current_time_values(dialect, now)}
    row = connection.execute(_holder_statement(dialect), values).one_or_none()
    if row is None:
        raise conversation_not_found(connection, key)
    _check_holder([row], key.id)
    if row.lease_token is None:
        return None
    return Holder(
        turn=row.running_turn,
        token=row.lease_token,
        expires_at=row.lease_expires_at,
        has_expired=bool(row.has_expired),
        span_seconds=row.lease_ms / 1000 if row.lease_ms is not None and row.lease_ms > 0 else None,
    )


def renew_lease(connection: Connection, key: ConversationKey, lease: Lease, now: datetime) -> bool:
    """Let a lease last for its span from now on.

    Return False if its token no longer holds the conversation.
    """
    dialect = connection.dialect.name
    values = {**_bind(key), **_bind_lease(dialect, lease, now)}
    return bool(connection.execute(_renew_statement(dialect), values).rowcount)


def free_row(connection: Connection, key: ConversationKey, token: str, count: int) -> tuple[Seq, Lineage] | None:
    """Free a conversation, and take `count` numbers for a partial reply.

    Return the first of these numbers and the conversation's lineage. Return None if the token no longer holds the
    conversation, or another transaction holds the row.
    """
    values = {**_bind(key), "token": token, "count": count}
    row = connection.execute(_free_statement(connection.dialect.name), values).one_or_none()
    if row is None:
        return None
    _check_freed([row], key.id)
    return Seq(row.next_seq - count), read_lineage(key, row.lineage)


def take_numbers(connection: Connection, key: ConversationKey, count: int) -> Seq:
    """Take `count` more numbers for messages, and return the first of them."""
    after = connection.scalar(_TAKE_NUMBERS, {**_bind(key), "count": count})
    if after is None:
        raise conversation_not_found(connection, key)
    return Seq(int(after) - count)


def read_reply_parent(connection: Connection, key: ConversationKey, turn: TurnNumber) -> Seq:
    """Return the message that a running turn's reply follows; 0: none."""
    row = connection.execute(_RUNNING, {**_bind(key), "turn": turn}).one_or_none()
    if row is None:
        raise damaged_row(key.id, f"turn {turn} is missing")
    return Seq(row.last_input_seq or row.base_seq)


def interrupt_turn(
    connection: Connection,
    key: ConversationKey,
    turn: TurnNumber,
    *,
    reason: dict[str, str],
    output_seq: Seq | None,
    now: datetime,
) -> None:
    """Mark a running turn as interrupted, with its partial reply if it has one."""
    values = {"turn": turn, "now": now, "reason": to_json(reason), "output": output_seq}
    for row in connection.execute(_INTERRUPT, {**_bind(key), **values}):
        if isinstance(row.started_at, datetime):  # not a damaged one
            forget_late_sums(connection, key.owner, row.started_at, now)


def request_stop(connection: Connection, key: ConversationKey, turn: TurnNumber, now: datetime) -> bool:
    """Ask the process that runs a turn to end it; return True if it was still running."""
    asked = connection.execute(_REQUEST_STOP, {**_bind(key), "turn": turn, "now": now})
    return bool(asked.rowcount)


def is_stop_requested(connection: Connection, key: ConversationKey, turn: TurnNumber) -> bool:
    """Return True if a caller asked the turn to end."""
    return connection.scalar(_STOP_REQUESTED, {**_bind(key), "turn": turn}) is not None
