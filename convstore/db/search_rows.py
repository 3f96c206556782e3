"""Read the texts that a search looks at: the newest ones, or those with some keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, func, select, tuple_
from sqlalchemy.types import BigInteger, Boolean

from convstore.db.connection import Connection
from convstore.db.dialect import is_sqlite
from convstore.db.fork_sharing import Lineage, read_lineage
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import damaged_row
from convstore.db.search_index import DocumentKey
from convstore.db.search_selection import IN_SPAN, KEY_COLUMNS, NEWEST_FIRST, Span, make_key
from convstore.db.tables import conversations, messages, turns
from convstore.db.tables import search_documents as table
from convstore.messages.codec import StoredMessage, decode_without_attachments
from convstore.messages.message import Message
from convstore.messages.storable_text import from_column
from convstore.values.identifiers import ConversationKey, Seq

_ALWAYS: tuple[ColumnElement[Any], ...] = (
    *KEY_COLUMNS,
    conversations.c.title,
    conversations.c.made_title,
    conversations.c.name,
    conversations.c.head_seq,
    conversations.c.lineage,
    conversations.c.deleted_at,
    conversations.c.archived_at,
)
_OF_MESSAGE: tuple[ColumnElement[Any], ...] = (
    messages.c.role,
    messages.c.name.label("author"),
    messages.c.content,
    messages.c.extra,
    messages.c.position,
)
_OF_TURN: tuple[ColumnElement[Any], ...] = (turns.c.status, turns.c.model, turns.c.requested_model)
_COLUMNS = (*_ALWAYS, *_OF_MESSAGE, *_OF_TURN)
_check_always, _check_message, _check_turn = RowCheck(_ALWAYS), RowCheck(_OF_MESSAGE), RowCheck(_OF_TURN)
_JOINED = (
    table.join(
        conversations,
        (conversations.c.owner == bindparam("owner")) & (conversations.c.id == table.c.conversation_id),
    )
    .outerjoin(
        messages,
        (messages.c.owner == bindparam("owner"))
        & (messages.c.conversation_id == table.c.conversation_id)
        & (messages.c.seq == table.c.seq),
    )
    .outerjoin(
        turns,
        (turns.c.owner == bindparam("owner"))
        & (turns.c.conversation_id == table.c.conversation_id)
        & (turns.c.seq == messages.c.turn_seq),
    )
)
_NEWEST = (
    select(*_COLUMNS)
    .select_from(_JOINED)
    .where(*IN_SPAN)
    .order_by(*NEWEST_FIRST)
    .limit(bindparam("most", type_=BigInteger))
)
_IS_THIS = (
    table.c.owner == bindparam("owner"),
    table.c.created_us == bindparam("created_us"),
    table.c.conversation_id == bindparam("conversation_id"),
    table.c.seq == bindparam("seq"),
)
_THIS = select(*_COLUMNS).select_from(_JOINED).where(*_IS_THIS)
_THESE = (
    select(*_COLUMNS)
    .select_from(_JOINED)
    .where(table.c.owner == bindparam("owner"), tuple_(*KEY_COLUMNS).in_(bindparam("keys", expanding=True)))
)
_CONVERSATION = select(conversations.c.lineage, conversations.c.deleted_at).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_KNOWN = select(*KEY_COLUMNS).where(*_IS_THIS)
_ALL_KNOWN = select(*KEY_COLUMNS).where(
    table.c.owner == bindparam("owner"), tuple_(*KEY_COLUMNS).in_(bindparam("keys", expanding=True))
)
_LIVING_FORKS = (
    select(
        conversations.c.id,
        conversations.c.lineage,
        func.coalesce(conversations.c.title, conversations.c.made_title).label("title"),
        conversations.c.head_seq,
    )
    .where(
        conversations.c.owner == bindparam("owner"),
        conversations.c.lineage.is_not(None),
        conversations.c.deleted_at.is_(None),
        conversations.c.archived_at.is_(None) | bindparam("archived", type_=Boolean),
    )
    .order_by(conversations.c.updated_at.desc(), conversations.c.id.desc())
)
_KEYS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Fork:
    """A living fork."""

    lineage: Lineage
    title: str | None
    head: Seq


def read_lineage_column(
    connection: Connection, owner: str, conversation_id: str, *, deleted: bool
) -> tuple[str | None] | None:
    """Return the lineage of a conversation as it is stored, in a tuple; None if the conversation does not exist.

    Args:
        deleted: whether it may be a deleted conversation.
    """
    row = connection.execute(_CONVERSATION, {"owner": owner, "id": conversation_id}).first()
    return (row.lineage,) if row is not None and (deleted or row.deleted_at is None) else None


def decode_searched(row: Any, conversation_id: str) -> Message:
    """Return the message of a row, without its attachments.

    Raises:
        DamagedRow: the row cannot be decoded.
    """
    if row.extra is None and row.author is None:
        return {"role": row.role, "content": row.content or ""}
    try:
        return decode_without_attachments(StoredMessage(row.role, row.author, row.content, row.extra))
    except (ValueError, RecursionError) as error:
        problem = "its extra fields are not JSON" if isinstance(error, json.JSONDecodeError) else error
        raise damaged_row(conversation_id, f"message seq {row.seq} cannot be decoded ({problem})") from error


def find_known(connection: Connection, owner: str, keys: Sequence[DocumentKey]) -> set[DocumentKey]:
    """Return which of these texts are in the index."""
    return {make_key(row) for row in _look_up(connection, owner, keys, _KNOWN, _ALL_KNOWN)}


def read_living_forks(connection: Connection, owner: str, *, archived: bool) -> list[Fork]:
    """Return the forks of an owner that are not deleted, latest activity first.

    Args:
        archived: return those that are archived too.
    """
    return [
        Fork(read_lineage(ConversationKey(owner, row.id), row.lineage), from_column(row.title), row.head_seq)
        for row in connection.execute(_LIVING_FORKS, {"owner": owner, "archived": archived}).all()
    ]


def read_newest(connection: Connection, span: Span, most: int) -> Sequence[Row[Any]]:
    """Return the newest texts of a span, newest first."""
    return connection.execute(_NEWEST, {**span.bind(), "most": most}).all()  # type: ignore[no-any-return]


def read_texts(connection: Connection, owner: str, keys: Sequence[DocumentKey]) -> list[Row[Any]]:
    """Return these texts, in this order; those that are not stored any more are left out."""
    found = {make_key(row): row for row in _look_up(connection, owner, keys, _THIS, _THESE)}
    return [found[key] for key in keys if key in found]


def _look_up(
    connection: Connection, owner: str, keys: Sequence[DocumentKey], one: Any, several: Any
) -> Iterator[Row[Any]]:
    """Yield the rows of documents, in any order.

    Args:
        one: the statement for one document: SQLite reads the whole table for a list of keys.
        several: the statement for a list of them, which saves round trips on PostgreSQL.
    """
    if is_sqlite(connection):
        for created_us, conversation_id, seq in keys:
            values = {"owner": owner, "created_us": created_us, "conversation_id": conversation_id, "seq": seq}
            yield from connection.execute(one, values)
        return
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = {"owner": owner, "keys": list(keys[start : start + _KEYS_AT_ONCE])}
        yield from connection.plain.execute(several, some)


def check_text(row: Any) -> None:
    """Check the types of a row of `_COLUMNS`; a title has no message, and some messages have no turn.

    Raises:
        DamagedRow: a value has another type than its column.
    """
    _check_always([row], row.conversation_id, "message seq")
    if row.role is not None:
        _check_message([row[len(_ALWAYS) :]], row.conversation_id, f"message seq {row.seq}")
    if row.status is not None:
        _check_turn([row[-len(_OF_TURN) :]], row.conversation_id, f"the turn of message seq {row.seq}")
