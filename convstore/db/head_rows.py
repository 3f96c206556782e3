"""Heads: where a conversation stands, and moving it along the tree; forks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, literal, select, update
from sqlalchemy.exc import IntegrityError

from convstore.db import lease_rows
from convstore.db.conversation_rows import conflict_free_insert
from convstore.db.fork_sharing import Lineage, Origin, read_lineage, write_lineage
from convstore.db.tables import conversations as table
from convstore.errors import ConversationExists, ConversationNotFound, DamagedRow
from convstore.messages.codec import to_column, to_json

_MOST_REDO = 100  # heads that `undo` left; older ones are found in the tree
_KEY = (table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"))
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
).where(*_KEY, table.c.deleted_at.is_(None))
_STATE_LOCKED = _STATE.with_for_update(skip_locked=True)
_MOVE = (
    update(table)
    .where(*_KEY)
    .values(
        head_seq=bindparam("head"), length=bindparam("position"), redo=bindparam("stack"), updated_at=bindparam("now")
    )
)
_PIN = update(table).where(*_KEY).values(pins=bindparam("pinned"))
_DELETE = update(table).where(*_KEY, table.c.deleted_at.is_(None)).values(deleted_at=bindparam("now"))
_RESTORE = update(table).where(*_KEY, table.c.deleted_at.is_not(None)).values(deleted_at=None)
_NAME_TAKEN = select(literal(1)).where(
    table.c.owner == bindparam("key_owner"),
    table.c.deleted_at.is_(None),
    table.c.name == select(table.c.name).where(*_KEY, table.c.deleted_at.is_not(None)).scalar_subquery(),
)


@dataclass(frozen=True, slots=True)
class State:
    """Where a conversation stands."""

    next_seq: int
    next_turn: int
    head: int
    length: int
    lineage: Lineage
    pins: tuple[tuple[int, int], ...]
    redo: tuple[int, ...]
    summary_turn: int | None


def state(connection: Connection, owner: str, id: str) -> State:
    """Return where a conversation stands.

    Raises:
        ConversationNotFound: there is none with this id.
    """
    row = connection.execute(_STATE, {"key_owner": owner, "key_id": id}).one_or_none()
    if row is None:
        raise ConversationNotFound(f"no conversation {id!r}; see `convstore list`")
    return _state(row, owner, id)


def take(connection: Connection, owner: str, id: str, now: datetime, alive: lease_rows.Alive) -> State:
    """Return where a conversation stands, and let nobody else write to it before this transaction ends.

    Raises:
        ConversationNotFound: there is none with this id.
        ConversationBusy: a turn is running, or another transaction is writing to it.
    """
    where = {"key_owner": owner, "key_id": id}
    statement = _STATE if connection.dialect.name == "sqlite" else _STATE_LOCKED
    row = connection.execute(statement, where).one_or_none()
    if row is None or row.lease_token is not None:
        lease_rows.free(connection, owner, id, now, alive)
        row = connection.execute(statement, where).one_or_none()
    if row is None or row.lease_token is not None:  # a turn may have taken it between the two looks
        raise lease_rows.locked(id)
    return _state(row, owner, id)


def _state(row: Any, owner: str, id: str) -> State:
    try:
        redo = tuple(int(seq) for seq in json.loads(row.redo or "[]"))
    except (ValueError, TypeError) as error:
        raise DamagedRow(
            f"conversation {id}: its redo heads cannot be decoded ({error}); restore this row from a backup"
        ) from error
    return State(
        next_seq=row.next_seq,
        next_turn=row.next_turn,
        head=row.head_seq,
        length=row.length,
        lineage=read_lineage(owner, id, row.lineage),
        pins=lease_rows.read_pins(row.pins, id),
        redo=redo,
        summary_turn=row.summary_turn,
    )


def move(
    connection: Connection, owner: str, id: str, head: int, position: int, redo: Sequence[int], now: datetime
) -> None:
    """Let message `head`, at `position`, be the last of the conversation's current path; 0 and 0 for an empty one."""
    stack = to_json(list(redo[-_MOST_REDO:])) if redo else None
    values = {"key_owner": owner, "key_id": id, "head": head, "position": position, "stack": stack, "now": now}
    connection.execute(_MOVE, values)


def pin(connection: Connection, owner: str, id: str, pins: Sequence[tuple[int, int]]) -> None:
    """Let these messages, by `seq` and position, be those that are pinned."""
    connection.execute(_PIN, {"key_owner": owner, "key_id": id, "pinned": _pins_column(pins)})


def _pins_column(pins: Sequence[tuple[int, int]]) -> str | None:
    return to_json([list(pair) for pair in pins]) if pins else None


def fork(
    connection: Connection,
    owner: str,
    id: str,
    *,
    new_id: str,
    name: str | None,
    title: str | None,
    keeps_title: bool,
    head: int,
    position: int,
    origins: tuple[Origin, ...],
    next_turn: int,
    pins: Sequence[tuple[int, int]],
    summary_turn: int | None,
    now: datetime,
) -> None:
    """Insert a conversation that shares the past of conversation `id` up to message `head`: one row, no copying.

    Args:
        pins, summary_turn: of what is shared. Beyond it, the fork gives the same numbers to other messages.

    Raises:
        ConversationExists: the new id or the name is taken.
    """
    copied = {
        "settings": table.c.settings,
        "metadata": table.c.metadata,
        "window": table.c.window,
        "title": table.c.title if keeps_title else literal(to_column(title), table.c.title.type),
    }
    given = {
        "owner": owner,
        "id": new_id,
        "name": name,
        "head_seq": head,
        "length": position,
        "next_seq": head + 1,
        "next_turn": next_turn,
        "lineage": write_lineage(origins),
        "pins": _pins_column(pins),
        "summary_turn": summary_turn,
        "created_at": now,
        "updated_at": now,
    }
    row = select(
        *(literal(value, table.c[key].type).label(key) for key, value in given.items()),
        *(value.label(key) for key, value in copied.items()),
    ).where(table.c.owner == owner, table.c.id == id)
    statement = conflict_free_insert(connection.dialect.name).from_select([*given, *copied], row).returning(table.c.id)
    if connection.execute(statement).one_or_none() is None:
        raise ConversationExists(f"the id {new_id!r} or the name {name!r} is taken; choose another")


def delete(connection: Connection, owner: str, id: str, now: datetime) -> None:
    """Take a conversation out of sight; its rows stay, for those that were forked from it, and for `restore`."""
    connection.execute(_DELETE, {"key_owner": owner, "key_id": id, "now": now})


def restore(connection: Connection, owner: str, id: str) -> None:
    """Bring a deleted conversation back.

    Raises:
        ConversationNotFound: no deleted one has this id.
        ConversationExists: its name was taken meanwhile.
    """
    key = {"key_owner": owner, "key_id": id}
    taken = ConversationExists(f"the name of conversation {id} has been taken; rename the one that has it first")
    # Asked first: the constraint's error would end a transaction of PostgreSQL, which may be the caller's own.
    if connection.execute(_NAME_TAKEN, key).first() is not None:
        raise taken
    try:
        restored = connection.execute(_RESTORE, key)
    except IntegrityError:
        raise taken from None
    if not restored.rowcount:
        raise ConversationNotFound(f"no deleted conversation {id!r}")
