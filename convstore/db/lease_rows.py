"""Leases: which turn holds a conversation, and until when.

A turn takes its conversation by one conditional update, under a fresh random token; whatever it writes later is fenced
by that token. Expiry is judged by the database's clock on PostgreSQL, where callers come from many machines, and by the
host's on SQLite.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, Interval, bindparam, func, null, select, tuple_, update

from convstore.db import delta_rows, message_rows
from convstore.db.engine import waits_briefly
from convstore.db.fork_sharing import Lineage, read_lineage
from convstore.db.tables import UtcDateTime, turns
from convstore.db.tables import conversations as table
from convstore.errors import ConversationBusy, ConversationNotFound, DamagedRow, HeadMoved
from convstore.messages.chunk_accumulator import Accumulator
from convstore.messages.codec import is_replayable, to_json

_KEY = (table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"))
_LIVING = (*_KEY, table.c.deleted_at.is_(None))


@dataclass(frozen=True, slots=True)
class Claim:
    """A conversation taken for a turn: the numbers given to it, and what it starts from."""

    turn: int
    first_seq: int
    head_seq: int
    settings: dict[str, Any]
    lineage: Lineage
    window: dict[str, Any]
    """The sticky options of the window."""
    pins: tuple[tuple[int, int], ...]
    """`seq` and position of the pinned messages."""
    summary_turn: int | None


@cache
def _claim_statement(dialect: str) -> Any:
    free: tuple[ColumnElement[bool], ...] = (*_LIVING, table.c.lease_token.is_(None))
    if dialect != "sqlite":
        # Somebody's open transaction (a caller's own, perhaps) may hold the row: then it is busy, and we do not block.
        mine = select(table.c.owner, table.c.id).where(*free).with_for_update(skip_locked=True)
        free = (tuple_(table.c.owner, table.c.id).in_(mine),)
    return (
        update(table)
        .where(*free)
        .values(
            running_turn=table.c.next_turn,
            next_turn=table.c.next_turn + 1,
            next_seq=table.c.next_seq + bindparam("count"),
            lease_token=bindparam("token"),
            lease_expires_at=_expiry(dialect),
        )
        .returning(
            table.c.running_turn,
            table.c.next_seq,
            table.c.head_seq,
            table.c.settings,
            table.c.lineage,
            table.c.window,
            table.c.pins,
            table.c.summary_turn,
        )
    )


@cache
def _state_statement(dialect: str) -> Any:
    return select(
        table.c.running_turn, table.c.lease_token, (table.c.lease_expires_at < _now(dialect)).label("expired")
    ).where(*_LIVING)


@cache
def _renew_statement(dialect: str) -> Any:
    return (
        update(table)
        .where(*_KEY, table.c.lease_token == bindparam("token"), *waits_briefly(dialect))
        .values(lease_expires_at=_expiry(dialect))
    )


_RELEASE = (
    update(table)
    .where(*_KEY, table.c.lease_token == bindparam("token"))
    .values(
        running_turn=null(),
        lease_token=null(),
        lease_expires_at=null(),
        next_seq=table.c.next_seq + bindparam("count"),
    )
    .returning(table.c.next_seq, table.c.lineage)
)
_MOVE_HEAD = update(table).where(*_KEY).values(head_seq=bindparam("head"), length=bindparam("position"))
_TAKE_NUMBERS = (
    update(table).where(*_KEY).values(next_seq=table.c.next_seq + bindparam("count")).returning(table.c.next_seq)
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
)
_REQUEST_STOP = update(turns).where(*_OF_TURN, turns.c.status == "running").values(stop_requested_at=bindparam("now"))
_ABANDONED = {
    "type": "Abandoned",
    "message": "the process that ran this turn ended, or lost its database, before the turn was over",
}
_STOPPED = {"type": "Stopped", "message": "stopped from elsewhere"}


@cache
def _stop_requested_statement(dialect: str) -> Any:
    return select(turns.c.stop_requested_at).where(*_OF_TURN, *waits_briefly(dialect))


Alive: TypeAlias = Callable[[str], bool | None]
"""Tells of a lease token whether the process that made it lives; None where that cannot be told from here."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The turn that holds a conversation."""

    turn: int
    token: str
    expired: bool

    def is_dead(self, alive: Alive) -> bool:
        """Whether the conversation may be taken: a process known to live is not robbed, however late it is."""
        living = alive(self.token)
        return self.expired if living is None else not living


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
    alive: Alive,
) -> Claim:
    """Take a conversation for a turn, and `count` numbers for its messages.

    A turn whose process has died is marked as interrupted first.

    Raises:
        ConversationNotFound: there is none with this id.
        ConversationBusy: another turn holds it.
    """
    dialect = connection.dialect.name
    values: dict[str, Any] = {"key_owner": owner, "key_id": id, "token": token, "count": count}
    values |= {"expires_at": now + span} if dialect == "sqlite" else {"span": span}
    for is_last in (False, True):
        row = connection.execute(_claim_statement(dialect), values).one_or_none()
        if row is not None:
            return Claim(
                turn=row.running_turn,
                first_seq=row.next_seq - count,
                head_seq=row.head_seq,
                settings=read_object(row.settings, id, "settings"),
                lineage=read_lineage(owner, id, row.lineage),
                window=read_object(row.window, id, "window"),
                pins=read_pins(row.pins, id),
                summary_turn=row.summary_turn,
            )
        if not is_last:
            # Held under this very token: this call's own first try, whose commit had gone through when the
            # connection broke. Nobody works on that turn.
            free(connection, owner, id, now, lambda held: False if held == token else alive(held))
    raise locked(id)


def locked(id: str) -> ConversationBusy:
    """Return the error for a conversation whose row another transaction holds."""
    return ConversationBusy(f"conversation {id} is busy: another transaction is writing to it; try again")


def check_head(id: str, head: int, expected: int | None) -> None:
    """Check that the head is where the caller last saw it, if it said where.

    Raises:
        HeadMoved: it is not.
    """
    if expected is not None and head != expected:
        raise HeadMoved(
            f"conversation {id}: its last message is seq {head} by now, not {expected}: somebody else has moved its "
            f"head, or written to it; look again, and repeat"
        )


def free(connection: Connection, owner: str, id: str, now: datetime, alive: Alive) -> None:
    """Make sure that no turn holds the conversation; it is taken from one whose process has died.

    Raises:
        ConversationNotFound: there is none with this id.
        ConversationBusy: a turn holds it.
    """
    held_by = holder(connection, owner, id, now)
    if held_by is None:
        return
    if not held_by.is_dead(alive):
        raise ConversationBusy(
            f"conversation {id} is busy: turn {held_by.turn} is running; try again when it has ended, "
            f"or end it with `convstore stop`"
        )
    take_away(connection, owner, id, held_by, now, _ABANDONED, keep_on_path=False)


def holder(connection: Connection, owner: str, id: str, now: datetime) -> Holder | None:
    """Return the turn that holds the conversation, or None. Only reads: what waiting callers ask again and again.

    Raises:
        ConversationNotFound: there is none with this id.
    """
    dialect = connection.dialect.name
    clock = {"now": now} if dialect == "sqlite" else {}
    state = connection.execute(_state_statement(dialect), {"key_owner": owner, "key_id": id, **clock}).one_or_none()
    if state is None:
        raise ConversationNotFound(f"no conversation {id!r}; see `convstore list`")
    if state.lease_token is None:
        return None
    return Holder(state.running_turn, state.lease_token, bool(state.expired))


def is_held(connection: Connection, owner: str, id: str, now: datetime, alive: Alive) -> bool:
    """Whether a turn holds the conversation whose process may still live. Only reads."""
    held_by = holder(connection, owner, id, now)
    return held_by is not None and not held_by.is_dead(alive)


def stop(connection: Connection, owner: str, id: str, held_by: Holder, now: datetime) -> None:
    """End a turn that was asked to stop and did not; the text that had come stays on the path."""
    take_away(connection, owner, id, held_by, now, _STOPPED, keep_on_path=True)


def take_away(
    connection: Connection,
    owner: str,
    id: str,
    held_by: Holder,
    now: datetime,
    reason: dict[str, str],
    *,
    keep_on_path: bool,
) -> None:
    """Take a conversation from a turn, and mark that as interrupted, with what its deltas say came of the reply."""
    key = {"key_owner": owner, "key_id": id}
    so_far = Accumulator()
    for _, delta in delta_rows.after(connection, owner, id, held_by.turn):
        so_far.add(delta)
    partial = so_far.completion().messages[:1] if so_far.started else ()
    released = connection.execute(_RELEASE, {**key, "token": held_by.token, "count": len(partial)}).one_or_none()
    if released is None:
        return  # it ended meanwhile
    output = None
    if partial:
        turn = connection.execute(_RUNNING, {**key, "turn": held_by.turn}).one()
        follows = turn.last_input_seq or turn.base_seq
        lineage = read_lineage(owner, id, released.lineage)
        (record,) = message_rows.add(
            connection,
            lineage,
            partial,
            first_seq=released.next_seq - 1,
            after=message_rows.at(connection, lineage, follows),
            turn=held_by.turn,
            now=now,
        )
        output = record.seq
        if keep_on_path and is_replayable(partial[0]):
            connection.execute(_MOVE_HEAD, {**key, "head": record.seq, "position": record.position})
        delta_rows.remove(connection, owner, id, held_by.turn)
    connection.execute(
        _INTERRUPT, {**key, "turn": held_by.turn, "now": now, "reason": to_json(reason), "output": output}
    )


def take_numbers(connection: Connection, owner: str, id: str, count: int) -> int:
    """Take more numbers for messages, and return the first of them."""
    after = connection.scalar(_TAKE_NUMBERS, {"key_owner": owner, "key_id": id, "count": count})
    if after is None:
        raise ConversationNotFound(f"no conversation {id!r}; see `convstore list`")
    return int(after) - count


def request_stop(connection: Connection, owner: str, id: str, turn: int, now: datetime) -> bool:
    """Ask the process that runs a turn to end it, and return whether it was still running."""
    asked = connection.execute(_REQUEST_STOP, {"key_owner": owner, "key_id": id, "turn": turn, "now": now})
    return bool(asked.rowcount)


def is_stop_requested(connection: Connection, owner: str, id: str, turn: int) -> bool:
    """Whether somebody asked for the turn to end."""
    asked = _stop_requested_statement(connection.dialect.name)
    return connection.scalar(asked, {"key_owner": owner, "key_id": id, "turn": turn}) is not None


def renew(connection: Connection, owner: str, id: str, *, token: str, span: timedelta, now: datetime) -> bool:
    """Prolong a lease by `span` from now, and return whether this token still held it."""
    dialect = connection.dialect.name
    clock = {"expires_at": now + span} if dialect == "sqlite" else {"span": span}
    values = {"key_owner": owner, "key_id": id, "token": token, **clock}
    return bool(connection.execute(_renew_statement(dialect), values).rowcount)


def read_object(column: str | None, id: str, name: str) -> dict[str, Any]:
    """Return the JSON object of one of a conversation's columns; an empty one for NULL.

    Raises:
        DamagedRow: the column is not a JSON object.
    """
    try:
        value = json.loads(column) if column is not None else {}
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DamagedRow(f"conversation {id}: its {name} are not a JSON object; restore this row from a backup")
    return value


def read_pins(column: str | None, id: str) -> tuple[tuple[int, int], ...]:
    """Return the pinned messages from their column.

    Raises:
        DamagedRow: the column is no list of pairs of numbers.
    """
    try:
        return tuple((int(seq), int(position)) for seq, position in json.loads(column or "[]"))
    except (ValueError, TypeError) as error:
        raise DamagedRow(
            f"conversation {id}: its pins cannot be decoded ({error}); restore this row from a backup"
        ) from error
