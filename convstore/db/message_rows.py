"""Messages: add them, and read them by their numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, insert, select

from convstore.db import attachment_rows
from convstore.db.fork_sharing import Lineage
from convstore.db.tables import messages as table
from convstore.errors import DamagedRow
from convstore.messages.codec import Message, StoredMessage, decode, digest, digests_in, encode
from convstore.messages.inline_data import written
from convstore.messages.token_estimate import Counter, estimate
from convstore.values.results import MessageRecord, Turn

STRIDES = (32, 1024, 32768)
"""The distances at which a message knows its ancestors; the columns `back_…`."""

COLUMNS: tuple[ColumnElement[Any], ...] = (
    table.c.seq,
    table.c.parent_seq,
    table.c.position,
    table.c.role,
    table.c.name,
    table.c.content,
    table.c.extra,
    table.c.tokens,
    table.c.context_seq,
    table.c.turn_seq,
    *(table.c[f"back_{stride}"] for stride in STRIDES),
    table.c.digest,
    table.c.created_at,
)
_KEY = (table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("conversation_id"))
_ONE = select(*COLUMNS).where(*_KEY, table.c.seq == bindparam("seq"))
_SEVERAL = select(*COLUMNS).where(*_KEY, table.c.seq.in_(bindparam("seqs", expanding=True)))
_BETWEEN = (
    select(*COLUMNS)
    .where(*_KEY, table.c.seq >= bindparam("first"), table.c.seq <= bindparam("last"))
    .order_by(table.c.seq)
)
_INSERT = insert(table)


def add(
    connection: Connection,
    lineage: Lineage,
    new: Sequence[Message],
    *,
    first_seq: int,
    after: MessageRecord | None,
    turn: int | None,
    now: datetime,
    count: Counter = estimate,
    siblings: bool = False,
) -> list[MessageRecord]:
    """Insert messages under the numbers that the conversation's row has given out, and return them as they stand.

    Args:
        first_seq: the number of the first; the others follow it.
        after: the message that the first one follows; None: it begins a path. Each of the others follows the one before
            it, or, of `siblings`, the same.
        count: counts a message's tokens.
    """
    added: list[MessageRecord] = []
    rows = []
    blobs: dict[bytes, bytes] = {}
    for seq, message in enumerate(new, first_seq):
        parent = added[-1] if added and not siblings else after
        record = _child(parent, seq, message, turn, now, count(message))
        added.append(record)
        stored = encode(message)
        blobs.update(stored.blobs)
        rows.append(
            {
                "owner": lineage.owner,
                "conversation_id": lineage.conversation_id,
                "seq": seq,
                "parent_seq": record.parent_seq,
                "position": record.position,
                "role": stored.role,
                "name": stored.name,
                "content": stored.content,
                "extra": stored.extra,
                "tokens": record.tokens,
                "context_seq": record.context_seq,
                "turn_seq": turn,
                **{f"back_{stride}": seq for stride, seq in zip(STRIDES, record.back, strict=True)},
                "digest": record.digest,
                "created_at": now,
            }
        )
    attachment_rows.put(connection, lineage.owner, blobs, now)
    if rows:
        connection.execute(_INSERT, rows)
    return added


def _child(
    parent: MessageRecord | None, seq: int, message: Message, turn: int | None, now: datetime, tokens: int
) -> MessageRecord:
    if parent is None:
        return MessageRecord(1, seq, 0, turn, now, message, digest(b"", message), 0, tokens)
    context = parent.seq if parent.message["role"] in ("system", "developer") else parent.context_seq
    back = tuple(
        parent.seq if parent.position % stride == 0 else known
        for stride, known in zip(STRIDES, parent.back, strict=True)
    )
    return MessageRecord(
        parent.position + 1, seq, parent.seq, turn, now, message, digest(parent.digest, message), context, tokens, back
    )


def get(connection: Connection, lineage: Lineage, seq: int) -> MessageRecord | None:
    """Return the message with this number, or None."""
    rows = connection.execute(_ONE, {**_key(lineage, seq), "seq": seq}).all()
    return records(connection, rows, lineage)[0] if rows else None


def at(connection: Connection, lineage: Lineage, head: int) -> MessageRecord | None:
    """Return the message at the head of a path; None where the path is empty (0).

    Raises:
        DamagedRow: it is missing.
    """
    record = get(connection, lineage, head) if head else None
    if head and record is None:
        raise missing(lineage.conversation_id, head)
    return record


def several(connection: Connection, lineage: Lineage, seqs: Iterable[int]) -> list[MessageRecord]:
    """Return the messages with these numbers, by position.

    Raises:
        DamagedRow: one of them is missing, or cannot be decoded.
    """
    homes: dict[str, list[int]] = {}
    for seq in seqs:
        homes.setdefault(lineage.home(seq), []).append(seq)
    found: list[MessageRecord] = []
    for home, kept in homes.items():
        key = {"owner": lineage.owner, "conversation_id": home}
        rows = connection.execute(_SEVERAL, {**key, "seqs": kept}).all()
        found.extend(records(connection, rows, lineage))
        for seq in sorted(set(kept) - {record.seq for record in found}):
            raise missing(lineage.conversation_id, seq)
    return sorted(found, key=lambda record: record.position)


def _key(lineage: Lineage, seq: int) -> dict[str, Any]:
    return {"owner": lineage.owner, "conversation_id": lineage.home(seq)}


def input_of(connection: Connection, lineage: Lineage, turn: Turn) -> list[MessageRecord]:
    """Return the messages that a turn asked with, in order; none where the conversation has no such turn.

    They may be kept elsewhere than the turn: where a fork asks again what was asked before it.

    Raises:
        DamagedRow: one of them is missing, or cannot be decoded.
    """
    if turn.first_input_seq is None or turn.last_input_seq is None:
        return []
    key = _key(lineage, turn.first_input_seq)
    rows = connection.execute(_BETWEEN, {**key, "first": turn.first_input_seq, "last": turn.last_input_seq}).all()
    found = records(connection, rows, lineage)
    lost = set(range(turn.first_input_seq, turn.last_input_seq + 1)) - {record.seq for record in found}
    if found and lost:
        raise missing(turn.conversation_id, min(lost))
    return found


def of_turn(connection: Connection, lineage: Lineage, turn: Turn) -> list[MessageRecord]:
    """Return the messages that a turn without a model put on record.

    Raises:
        DamagedRow: one of them is missing, or cannot be decoded.
    """
    if turn.output_seq is None:
        return input_of(connection, lineage, turn)
    record = get(connection, lineage, turn.output_seq)
    if record is None:
        raise missing(turn.conversation_id, turn.output_seq)
    return [record]


def missing(conversation_id: str, seq: int) -> DamagedRow:
    """Return the error for a message that others name, and that is not there."""
    return DamagedRow(f"conversation {conversation_id}: message seq {seq} is missing; restore this row from a backup")


def texts_of(connection: Connection, owner: str, stored: Iterable[StoredMessage]) -> dict[bytes, str]:
    """Return the base64 that rows refer to, by digest: by one statement, and by none where there is nothing.

    What is missing, or no longer what it was, is left out: `read` says of which message it is.
    """
    wanted: set[bytes] = set()
    for one in stored:
        with suppress(ValueError, RecursionError):  # a damaged row: `read` says so
            wanted |= digests_in(one)
    return written(attachment_rows.fetch(connection, owner, wanted))


def read(stored: StoredMessage, texts: Mapping[bytes, str], conversation_id: str, seq: int) -> Message:
    """Return the exact message of a row.

    Args:
        texts: what `texts_of` returned for this row, and for others.

    Raises:
        DamagedRow: it cannot be decoded, or what it refers to is missing or damaged.
    """
    try:
        return decode(stored, texts)
    except (ValueError, RecursionError) as error:
        raise DamagedRow(
            f"conversation {conversation_id}: message seq {seq} cannot be decoded "
            f"({error if not isinstance(error, json.JSONDecodeError) else 'its extra fields are not JSON'}); "
            f"restore this row from a backup"
        ) from error


def records(connection: Connection, rows: Sequence[Row[Any]], lineage: Lineage) -> list[MessageRecord]:
    """Return rows of `COLUMNS` as messages, in their order.

    Raises:
        DamagedRow: one cannot be decoded.
    """
    stored = [StoredMessage(row.role, row.name, row.content, row.extra) for row in rows]
    texts = texts_of(connection, lineage.owner, stored)
    return [
        _record(row, read(one, texts, lineage.conversation_id, row.seq)) for row, one in zip(rows, stored, strict=True)
    ]


def _record(row: Row[Any], message: Message) -> MessageRecord:
    return MessageRecord(
        position=row.position,
        seq=row.seq,
        parent_seq=row.parent_seq,
        turn=row.turn_seq,
        created_at=row.created_at,
        message=message,
        digest=row.digest,
        context_seq=row.context_seq,
        tokens=row.tokens,
        back=(row.back_32, row.back_1024, row.back_32768),
    )
