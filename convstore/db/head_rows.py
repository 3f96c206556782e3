"""Read and move heads: the last message of a conversation's path.

Every statement that moves a head is in this module.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import Text, bindparam, func, null, select, update

from convstore.db.connection import Connection
from convstore.db.dialect import is_sqlite
from convstore.db.fork_sharing import Lineage, read_lineage
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import DECODING_ERRORS, conversation_not_found, damaged_row
from convstore.db.tables import conversations as table
from convstore.errors import HeadMoved
from convstore.messages.storable_text import to_column, to_json
from convstore.values.identifiers import ConversationKey, Position, Seq, TurnNumber

Pin: TypeAlias = tuple[Seq, Position]
"""A pinned message."""

_MAX_REDO_HEADS = 100  # `checkout` still finds older ones in the tree
_OF_CONVERSATION = (table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"))
_LIVING = (*_OF_CONVERSATION, table.c.deleted_at.is_(None))
_HELD = (*_OF_CONVERSATION, table.c.lease_token == bindparam("token"))
_STATE = select(
    table.c.next_seq,
    table.c.next_turn,
    table.c.head_seq,
    table.c.length,
    table.c.lease_token,
    table.c.lineage,
    table.c.pins,
    table.c.redo,
    table.c.summary_turn,
).where(*_LIVING)
_STATE_LOCKED = _STATE.with_for_update(skip_locked=True, key_share=True)
_HEAD = select(table.c.head_seq, table.c.length, table.c.lineage).where(*_LIVING)
_check_state, _check_head = RowCheck(_STATE.selected_columns), RowCheck(_HEAD.selected_columns)

_AT_HEAD: dict[str, Any] = {"head_seq": bindparam("head"), "length": bindparam("position")}
_MOVE = update(table).where(*_OF_CONVERSATION).values(**_AT_HEAD, redo=bindparam("redo"), updated_at=bindparam("now"))
_APPEND = (
    update(table)
    .where(*_OF_CONVERSATION)
    .values(
        **_AT_HEAD,
        next_seq=bindparam("next_seq"),
        next_turn=bindparam("next_turn"),
        updated_at=bindparam("now"),
        made_title=func.coalesce(table.c.made_title, bindparam("new_title", type_=Text)),
    )
)
_KEEP_PARTIAL = update(table).where(*_OF_CONVERSATION).values(**_AT_HEAD)
_NUMBERS = {"next_seq": table.c.next_seq + bindparam("count"), "updated_at": bindparam("now")}
_TAKE_LATE_NUMBERS = update(table).where(*_OF_CONVERSATION).values(**_NUMBERS).returning(table.c.next_seq)
_FREED = {"running_turn": null(), "lease_token": null(), "lease_expires_at": null(), "lease_ms": null()}


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a path: a message and its position; 0 and 0 for an empty path."""

    seq: Seq
    position: Position


@dataclass(frozen=True, slots=True)
class ConversationState:
    """The state of a conversation: its head, lineage, pins and redo heads."""

    next_seq: Seq
    next_turn: TurnNumber
    head: Head
    lineage: Lineage
    pins: tuple[Pin, ...]
    redo: tuple[Seq, ...]
    summary_turn: TurnNumber | None
    is_held: bool
    """Whether a turn holds the conversation."""


def read_state(connection: Connection, key: ConversationKey) -> ConversationState:
    """Return the state of a conversation.

    Raises:
        ConversationNotFound: the owner has no such conversation.
    """
    row = connection.execute(_STATE, _bind(key)).one_or_none()
    if row is None:
        raise conversation_not_found(connection, key)
    return _check_and_decode(row, key)


def lock_state(connection: Connection, key: ConversationKey) -> ConversationState | None:
    """Lock a conversation's row until the transaction ends, and return its state.

    Return None if the conversation does not exist, or another transaction holds its row. On SQLite nothing is locked,
    because only one transaction at a time can write.
    """
    row = connection.execute(_STATE if is_sqlite(connection) else _STATE_LOCKED, _bind(key)).one_or_none()
    return _check_and_decode(row, key) if row is not None else None


def read_head(connection: Connection, key: ConversationKey) -> tuple[Head, Lineage]:
    """Return a conversation's head, and its lineage.

    Raises:
        ConversationNotFound: the owner has no such conversation.
    """
    found = connection.execute(_HEAD, _bind(key)).one_or_none()
    if found is None:
        raise conversation_not_found(connection, key)
    _check_head([found], key.id)
    return Head(found.head_seq, found.length), read_lineage(key, found.lineage)


def read_head_seq(connection: Connection, key: ConversationKey) -> tuple[Seq, Lineage]:
    """Return the `seq` of a conversation's head, and its lineage; 0: an empty path.

    Raises:
        ConversationNotFound: the owner has no such conversation.
    """
    head, lineage = read_head(connection, key)
    return head.seq, lineage


def check_expected_head(key: ConversationKey, head: Seq, expected: Seq | None) -> None:
    """Check that the head is the message that the caller expects.

    Args:
        expected: the `seq` of this message; None: any head is accepted.

    Raises:
        HeadMoved: the head is another message.
    """
    if expected is not None and head != expected:
        raise HeadMoved(
            f"conversation {key.id!r}: its head is message seq {head}, not {expected}: another caller has moved it or "
            f"written to the conversation; read it again and repeat"
        )


def move_head(connection: Connection, key: ConversationKey, head: Head, redo: Sequence[Seq], now: datetime) -> None:
    """Make another message the last of the path.

    Args:
        redo: the heads that `undo` left, latest last.
    """
    stack = to_json(list(redo[-_MAX_REDO_HEADS:])) if redo else None
    connection.execute(_MOVE, {**_bind(key), "head": head.seq, "position": head.position, "redo": stack, "now": now})


def append_at_head(
    connection: Connection,
    key: ConversationKey,
    head: Head,
    next_turn: TurnNumber,
    now: datetime,
    *,
    made_title: str | None,
) -> None:
    """Move the head to the last appended message, and continue the numbers after it.

    Args:
        made_title: the title that the messages make if the conversation has none yet; None: they make none.
    """
    values = {"head": head.seq, "position": head.position, "next_seq": head.seq + 1, "next_turn": next_turn, "now": now}
    connection.execute(_APPEND, {**_bind(key), **values, "new_title": to_column(made_title)})


def keep_partial_reply(connection: Connection, key: ConversationKey, head: Head) -> None:
    """Move the head to the partial reply of a turn that was stopped."""
    connection.execute(_KEEP_PARTIAL, {**_bind(key), "head": head.seq, "position": head.position})


@cache
def _end_statement(*, moves_head: bool) -> Any:
    moved = {"head_seq": table.c.next_seq, "length": bindparam("position")} if moves_head else {}
    return update(table).where(*_HELD).values(**_NUMBERS, **_FREED, **moved).returning(table.c.next_seq)


def free_with_reply(
    connection: Connection, key: ConversationKey, token: str, count: int, position: Position | None, now: datetime
) -> Seq | None:
    """Free the conversation that a lease token holds, and take numbers for replies.

    Return the number of the first of `count` replies, or None if the token no longer holds the conversation.

    Args:
        position: the position of the first reply if it becomes the head; None: the head stays where it is.
    """
    values: dict[str, Any] = {**_bind(key), "token": token, "count": count, "now": now}
    if position is not None:
        values["position"] = position
    statement = _end_statement(moves_head=position is not None)
    next_seq = connection.scalar(statement, values)
    return Seq(int(next_seq) - count) if next_seq is not None else None


def take_late_numbers(connection: Connection, key: ConversationKey, count: int, now: datetime) -> Seq:
    """Take numbers for `count` late replies, and return the first of the numbers.

    A reply is late if its turn had lost the conversation before.
    """
    next_seq = connection.scalar(_TAKE_LATE_NUMBERS, {**_bind(key), "count": count, "now": now})
    if next_seq is None:
        raise conversation_not_found(connection, key)
    return Seq(int(next_seq) - count)


def _bind(key: ConversationKey) -> dict[str, Any]:
    return {"key_owner": key.owner, "key_id": key.id}


def _check_and_decode(row: Any, key: ConversationKey) -> ConversationState:
    _check_state([row], key.id)
    return decode_state(row, key)


def decode_state(row: Any, key: ConversationKey) -> ConversationState:
    """Return the state of a conversation from its row.

    Raises:
        DamagedRow: the row cannot be decoded.
    """
    try:
        redo = tuple(Seq(int(seq)) for seq in json.loads(row.redo or "[]"))
    except DECODING_ERRORS as error:
        raise damaged_row(key.id, f"its redo heads cannot be decoded ({error})") from error
    return ConversationState(
        next_seq=row.next_seq,
        next_turn=row.next_turn,
        head=Head(row.head_seq, row.length),
        lineage=read_lineage(key, row.lineage),
        pins=decode_pins(row.pins, key),
        redo=redo,
        summary_turn=row.summary_turn,
        is_held=row.lease_token is not None,
    )


def decode_pins(column: str | None, key: ConversationKey) -> tuple[Pin, ...]:
    """Return the pinned messages from their column.

    Raises:
        DamagedRow: the column is not a list of pairs of numbers.
    """
    try:
        return tuple((Seq(int(seq)), Position(int(position))) for seq, position in json.loads(column or "[]"))
    except DECODING_ERRORS as error:
        raise damaged_row(key.id, f"its pins cannot be decoded ({error})") from error


def encode_pins(pins: Sequence[Pin]) -> str | None:
    """Return the column of pinned messages; None if there are none."""
    return to_json([list(pin) for pin in pins]) if pins else None
