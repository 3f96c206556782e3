"""Read what the search index does not have yet."""

from __future__ import annotations

import logging
from datetime import datetime
from functools import cache
from typing import Any

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

_TITLE = select(conversations.c.created_at, conversations.c.title, conversations.c.name).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_THIS = select(conversations.c.id).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_HOLD = _THIS.with_for_update(skip_locked=True, key_share=True, read=True)
# The number too: a clock may have been set back.
_REDACTIONS = select(func.count().label("number"), func.max(redactions.c.redacted_at).label("last")).where(
    redactions.c.owner == bindparam("owner"), redactions.c.conversation_id == bindparam("conversation_id")
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
_BATCH_MESSAGES, _BATCH_BYTES = 500, 4_000_000


@cache
def _sizes_statement(dialect: str) -> Any:
    size = count_bytes(dialect, messages.c.content) + count_bytes(dialect, messages.c.extra)
    return (
        select(messages.c.seq, size.label("size"))
        .where(*_OF_CONVERSATION)
        .order_by(messages.c.seq)
        .limit(bindparam("most", type_=BigInteger))
    )


def find_redactions(connection: Connection, key: ConversationKey) -> tuple[int, datetime | None]:
    """Return how many messages of a conversation were redacted, and when the last one; None: never."""
    found = connection.execute(_REDACTIONS, {"owner": key.owner, "conversation_id": key.id}).one()
    return found.number, found.last


def hold_conversation(connection: Connection, key: ConversationKey) -> bool:
    """Keep others from purging a conversation until the transaction ends; return False if it does not exist.

    Raises:
        DatabaseUnavailable: another transaction is purging it; try again.
    """
    values = {"owner": key.owner, "id": key.id}
    if not is_sqlite(connection) and connection.execute(_HOLD, values).first() is not None:
        return True
    exists = connection.execute(_THIS, values).first() is not None
    if exists and not is_sqlite(connection):
        raise DatabaseUnavailable(f"conversation {key.id!r}: another transaction is purging it", transient=True)
    return exists


def read_title(connection: Connection, key: ConversationKey) -> tuple[datetime, str | None, str | None]:
    """Return when a conversation was created, its title and its name."""
    row = connection.execute(_TITLE, {"owner": key.owner, "id": key.id}).one()
    return row.created_at, from_column(row.title), row.name


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
    found = []
    for row in connection.execute(_BETWEEN, {**values, "to_seq": end}).all():
        try:
            _check_message_types([row], key.id, "message seq")
            document = count_microseconds(row.created_at), key.id, Seq(row.seq)
            found.append((document, decode_searched(row, key.id)))
        except DamagedRow:  # it cannot be found, and whoever reads it is told
            _logger.warning("search: message seq %s of conversation %s is damaged and not indexed", row.seq, key.id)
    return found, rest
