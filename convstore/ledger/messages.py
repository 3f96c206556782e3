"""Messages: add them, and read a path of the tree that they form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Row, bindparam, insert, literal, select

from convstore.errors import DamagedRow
from convstore.ledger.database import EVERYTHING
from convstore.ledger.models import messages as table
from convstore.messages import Message, StoredMessage, decode, digest, encode
from convstore.records import MessageRecord, Turn

# How far beyond the rows it wants a scan goes before a recursive query takes over: failed turns and siblings near the
# head are stepped over for the price of a few rows.
_SLACK = 16

_COLUMNS: tuple[ColumnElement[Any], ...] = (
    table.c.seq,
    table.c.parent_seq,
    table.c.position,
    table.c.role,
    table.c.name,
    table.c.content,
    table.c.extra,
    table.c.context_seq,
    table.c.turn_seq,
    table.c.digest,
    table.c.created_at,
)
_KEY = (table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("conversation_id"))
_ONE = select(*_COLUMNS).where(*_KEY, table.c.seq == bindparam("seq"))
_BETWEEN = (
    select(*_COLUMNS)
    .where(*_KEY, table.c.seq >= bindparam("first"), table.c.seq <= bindparam("last"))
    .order_by(table.c.seq)
)
_DOWN = select(*_COLUMNS).where(*_KEY, table.c.seq <= bindparam("head")).order_by(table.c.seq.desc())
_DOWN_LIMITED = _DOWN.limit(bindparam("most"))
_INSERT = insert(table)


def _climb() -> Any:
    """From a message up to the root, by its parents, `most` of them: for when they lie far apart."""
    start = select(table.c.seq, table.c.parent_seq, literal(1, BigInteger).label("step")).where(
        *_KEY, table.c.seq == bindparam("head")
    )
    path = start.cte("path", recursive=True)
    up = select(table.c.seq, table.c.parent_seq, path.c.step + 1).where(
        *_KEY, table.c.seq == path.c.parent_seq, path.c.step < bindparam("most", type_=BigInteger)
    )
    path = path.union_all(up)
    return (
        select(*_COLUMNS).where(*_KEY, table.c.seq == path.c.seq).order_by(table.c.seq.desc()).select_from(table, path)
    )


_CLIMB = _climb()


def add(
    connection: Connection,
    owner: str,
    conversation_id: str,
    new: Sequence[Message],
    *,
    first_seq: int,
    after: MessageRecord | None,
    turn: int | None,
    now: datetime,
    siblings: bool = False,
) -> list[MessageRecord]:
    """Insert messages under the numbers that the conversation's row has given out, and return them as they stand.

    Args:
        first_seq: the number of the first; the others follow it.
        after: the message that the first one follows; None: it begins a path. Each of the others follows the one before
            it, or, of `siblings`, the same.
    """
    added: list[MessageRecord] = []
    rows = []
    for seq, message in enumerate(new, first_seq):
        parent = added[-1] if added and not siblings else after
        record = _child(parent, seq, message, turn, now)
        added.append(record)
        stored = encode(message)
        rows.append(
            {
                "owner": owner,
                "conversation_id": conversation_id,
                "seq": seq,
                "parent_seq": record.parent_seq,
                "position": record.position,
                "role": stored.role,
                "name": stored.name,
                "content": stored.content,
                "extra": stored.extra,
                "context_seq": record.context_seq,
                "turn_seq": turn,
                "digest": record.digest,
                "created_at": now,
            }
        )
    if rows:
        connection.execute(_INSERT, rows)
    return added


def _child(parent: MessageRecord | None, seq: int, message: Message, turn: int | None, now: datetime) -> MessageRecord:
    if parent is None:
        return MessageRecord(1, seq, 0, turn, now, message, digest(b"", message), 0)
    context = parent.seq if parent.message["role"] in ("system", "developer") else parent.context_seq
    return MessageRecord(
        parent.position + 1, seq, parent.seq, turn, now, message, digest(parent.digest, message), context
    )


def get(connection: Connection, owner: str, conversation_id: str, seq: int) -> MessageRecord | None:
    """Return the message with this number, or None."""
    row = connection.execute(_ONE, {"owner": owner, "conversation_id": conversation_id, "seq": seq}).one_or_none()
    return _record(row, conversation_id) if row is not None else None


def at(connection: Connection, owner: str, conversation_id: str, head: int) -> MessageRecord | None:
    """Return the message at the head of a path; None where the path is empty (0).

    Raises:
        DamagedRow: it is missing.
    """
    record = get(connection, owner, conversation_id, head) if head else None
    if head and record is None:
        raise missing(conversation_id, head)
    return record


def input_of(connection: Connection, owner: str, turn: Turn) -> list[MessageRecord]:
    """Return the messages that a turn asked with, in order; none where this owner has no such turn.

    Raises:
        DamagedRow: one of them is missing, or cannot be decoded.
    """
    if turn.first_input_seq is None or turn.last_input_seq is None:
        return []
    key = {"owner": owner, "conversation_id": turn.conversation_id}
    rows = connection.execute(_BETWEEN, {**key, "first": turn.first_input_seq, "last": turn.last_input_seq})
    found = [_record(row, turn.conversation_id) for row in rows]
    lost = set(range(turn.first_input_seq, turn.last_input_seq + 1)) - {record.seq for record in found}
    if found and lost:
        raise missing(turn.conversation_id, min(lost))
    return found


def of_turn(connection: Connection, owner: str, turn: Turn) -> list[MessageRecord]:
    """Return the messages that a turn without a model put on record.

    Raises:
        DamagedRow: one of them is missing, or cannot be decoded.
    """
    if turn.output_seq is None:
        return input_of(connection, owner, turn)
    record = get(connection, owner, turn.conversation_id, turn.output_seq)
    if record is None:
        raise missing(turn.conversation_id, turn.output_seq)
    return [record]


def path(
    connection: Connection, owner: str, conversation_id: str, head: int, limit: int | None = None
) -> list[MessageRecord]:
    """Return the path that ends at message `head` (0: an empty one), in order; of a long one the last `limit`.

    One descending scan of the primary key follows the parents and steps over what is not on the path. Only if a parent
    lies far below does one recursive query fetch the rest: never more than two statements.

    Raises:
        DamagedRow: a message of the path is missing, or cannot be decoded.
    """
    if head == 0 or limit == 0:
        return []
    key = {"owner": owner, "conversation_id": conversation_id}
    if limit is None:
        scan = connection.execute(_DOWN, {**key, "head": head})
    else:
        scan = connection.execute(_DOWN_LIMITED, {**key, "head": head, "most": limit + _SLACK})
    found: list[Row[Any]] = []
    wanted = head
    with scan:
        for row in scan:
            if row.seq == wanted:
                found.append(row)
                wanted = row.parent_seq
                if wanted == 0 or len(found) == limit:
                    break
    if wanted != 0 and (limit is None or len(found) < limit):
        most = EVERYTHING if limit is None else limit - len(found)
        rest = connection.execute(_CLIMB, {**key, "head": wanted, "most": most}).all()
        found.extend(rest)
        wanted = rest[-1].parent_seq if rest else wanted
        if wanted != 0 and (limit is None or len(found) < limit):
            raise missing(conversation_id, wanted)
    return [_record(row, conversation_id) for row in reversed(found)]


def missing(conversation_id: str, seq: int) -> DamagedRow:
    """Return the error for a message that others name, and that is not there."""
    return DamagedRow(f"conversation {conversation_id}: message seq {seq} is missing; restore this row from a backup")


def read(stored: StoredMessage, conversation_id: str, seq: int) -> Message:
    """Return the exact message of a row.

    Raises:
        DamagedRow: it cannot be decoded.
    """
    try:
        return decode(stored)
    except (ValueError, RecursionError) as error:
        raise DamagedRow(
            f"conversation {conversation_id}: message seq {seq} cannot be decoded "
            f"({error if not isinstance(error, json.JSONDecodeError) else 'its extra fields are not JSON'}); "
            f"restore this row from a backup"
        ) from error


def _record(row: Row[Any], conversation_id: str) -> MessageRecord:
    message = read(StoredMessage(row.role, row.name, row.content, row.extra), conversation_id, row.seq)
    return MessageRecord(
        position=row.position,
        seq=row.seq,
        parent_seq=row.parent_seq,
        turn=row.turn_seq,
        created_at=row.created_at,
        message=message,
        digest=row.digest,
        context_seq=row.context_seq,
    )
