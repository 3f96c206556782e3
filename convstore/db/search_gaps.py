"""Read what the search index does not have yet."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import bindparam, func, select
from sqlalchemy.types import BigInteger

from convstore.db.connection import Connection
from convstore.db.dialect import count_bytes, is_sqlite
from convstore.db.row_check import RowCheck
from convstore.db.search_index import DocumentKey, count_microseconds
from convstore.db.search_rows import decode_searched
from convstore.db.tables import conversations, messages, redactions
from convstore.errors import DamagedRow, DatabaseUnavailable
from convstore.messages.message import Message
from convstore.messages.storable_text import from_column
from convstore.values.identifiers import ConversationKey, Seq

_logger = logging.getLogger(__name__)

_THESE = (conversations.c.owner == bindparam("owner"), conversations.c.id.in_(bindparam("ids", expanding=True)))
_HEADS = select(
    conversations.c.id,
    conversations.c.created_at,
    conversations.c.title,
    conversations.c.name,
    conversations.c.next_seq,
).where(*_THESE)
_EXISTING = select(conversations.c.id).where(*_THESE)
_HOLD = _EXISTING.with_for_update(skip_locked=True, key_share=True, read=True)
# The number too: a clock may have been set back.
_REDACTIONS = (
    select(redactions.c.conversation_id, func.count().label("number"), func.max(redactions.c.redacted_at).label("last"))
    .where(
        redactions.c.owner == bindparam("owner"),
        redactions.c.conversation_id.in_(bindparam("ids", expanding=True)),
    )
    .group_by(redactions.c.conversation_id)
)
_OF_THESE = (
    messages.c.owner == bindparam("owner"),
    messages.c.conversation_id.in_(bindparam("ids", expanding=True)),
)
_OF_CONVERSATION = (
    messages.c.owner == bindparam("owner"),
    messages.c.conversation_id == bindparam("conversation_id"),
    messages.c.seq >= bindparam("from_seq"),
)
_MESSAGE_COLUMNS = (
    messages.c.seq,
    messages.c.created_at,
    messages.c.role,
    messages.c.name.label("author"),
    messages.c.content,
    messages.c.extra,
)
_check_message_types = RowCheck(_MESSAGE_COLUMNS)
_BETWEEN = (
    select(*_MESSAGE_COLUMNS)
    .where(*_OF_CONVERSATION, messages.c.seq <= bindparam("to_seq", type_=BigInteger))
    .order_by(messages.c.seq)
)
_WHOLE = (
    select(messages.c.conversation_id, *_MESSAGE_COLUMNS)
    .where(*_OF_THESE)
    .order_by(messages.c.conversation_id, messages.c.seq)
)
_BATCH_MESSAGES, _BATCH_BYTES = 500, 4_000_000

Redactions: TypeAlias = tuple[int, datetime | None]
"""How many messages of a conversation were redacted, and when the last one; None: never."""
NO_REDACTIONS: Redactions = (0, None)


@dataclass(frozen=True, slots=True)
class Head:
    """What the index needs to know of a conversation."""

    created_at: datetime
    names: tuple[str | None, str | None]
    """Its title and its name."""
    most_messages: int
    """It has at most so many messages."""


@cache
def _sizes_statement(dialect: str) -> Any:
    size = count_bytes(dialect, messages.c.content) + count_bytes(dialect, messages.c.extra)
    return (
        select(messages.c.seq, size.label("size"))
        .where(*_OF_CONVERSATION)
        .order_by(messages.c.seq)
        .limit(bindparam("most", type_=BigInteger))
    )


@cache
def _total_sizes_statement(dialect: str) -> Any:
    size = count_bytes(dialect, messages.c.content) + count_bytes(dialect, messages.c.extra)
    columns = (messages.c.conversation_id, func.sum(size).label("size"))
    return select(*columns).where(*_OF_THESE).group_by(messages.c.conversation_id)


def find_redactions(connection: Connection, owner: str, ids: Sequence[str]) -> dict[str, Redactions]:
    """Return what was redacted in those of these conversations in which something was."""
    found = connection.plain.execute(_REDACTIONS, {"owner": owner, "ids": list(ids)})
    return {row.conversation_id: (row.number, row.last) for row in found}


def hold_conversations(connection: Connection, owner: str, ids: Sequence[str]) -> set[str]:
    """Keep others from purging conversations until the transaction ends, and return those that exist.

    Raises:
        DatabaseUnavailable: another transaction is purging one of them; try again.
    """
    values = {"owner": owner, "ids": list(ids)}
    if is_sqlite(connection):
        return {row.id for row in connection.plain.execute(_EXISTING, values)}
    held = {row.id for row in connection.plain.execute(_HOLD, values)}
    if len(held) < len(ids):
        for row in connection.plain.execute(_EXISTING, values):
            if row.id not in held:
                problem = f"conversation {row.id!r}: another transaction is purging it"
                raise DatabaseUnavailable(problem, transient=True)
    return held


def read_heads(connection: Connection, owner: str, ids: Sequence[str]) -> dict[str, Head]:
    """Return what the index needs to know of those of these conversations that exist."""
    return {
        row.id: Head(row.created_at, (from_column(row.title), row.name), row.next_seq - 1)
        for row in connection.plain.execute(_HEADS, {"owner": owner, "ids": list(ids)})
    }


def choose_short(connection: Connection, owner: str, ids: Sequence[str]) -> list[str]:
    """Return the first of these conversations, as many as have together no more bytes than are read at once."""
    found = connection.plain.execute(
        _total_sizes_statement(connection.dialect.name), {"owner": owner, "ids": list(ids)}
    )
    sizes = {row.conversation_id: row.size for row in found}
    chosen, total = [], 0
    for id in ids:
        total += sizes.get(id, 0)
        if total > _BATCH_BYTES:
            break
        chosen.append(id)
    return chosen


def read_whole(connection: Connection, owner: str, ids: Sequence[str]) -> dict[str, list[tuple[DocumentKey, Message]]]:
    """Return all messages of short conversations for the index, without attachments; damaged ones are left out."""
    found: dict[str, list[tuple[DocumentKey, Message]]] = {id: [] for id in ids}
    for row in connection.plain.execute(_WHOLE, {"owner": owner, "ids": list(ids)}).all():
        found[row.conversation_id] += _decode(row, row.conversation_id, row[1:])
    return found


def read_unindexed(
    connection: Connection, key: ConversationKey, from_seq: Seq
) -> tuple[list[tuple[DocumentKey, Message]], Seq | None]:
    """Return messages of a conversation for the index, without attachments, and the first of the next ones or None.

    Damaged ones are left out.
    """
    values = {"owner": key.owner, "conversation_id": key.id, "from_seq": from_seq, "most": _BATCH_MESSAGES + 1}
    sizes = connection.execute(_sizes_statement(connection.dialect.name), values).all()
    total, end, rest = 0, from_seq, None
    for number, (seq, size) in enumerate(sizes):
        total += size
        if number == _BATCH_MESSAGES or (number and total > _BATCH_BYTES):
            rest = Seq(seq)
            break
        end = Seq(seq)
    rows = connection.execute(_BETWEEN, {**values, "to_seq": end}).all()
    return [document for row in rows for document in _decode(row, key.id, row)], rest


def _decode(row: Any, conversation_id: str, columns: Sequence[Any]) -> list[tuple[DocumentKey, Message]]:
    """Return the message of a row; [] if it is damaged: it cannot be found, and whoever reads it is told.

    Args:
        columns: the values of `_MESSAGE_COLUMNS` in the row.
    """
    try:
        _check_message_types([columns], conversation_id, "message seq")
        document = count_microseconds(row.created_at), conversation_id, Seq(row.seq)
        return [(document, decode_searched(row, conversation_id))]
    except DamagedRow:
        _logger.warning(
            "search: message seq %s of conversation %s is damaged and not indexed", row.seq, conversation_id
        )
        return []
