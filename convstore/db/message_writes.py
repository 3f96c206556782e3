"""Insert rows of messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import insert

from convstore.db.attachment_rows import insert_attachments
from convstore.db.message_rows import BACK_COLUMNS, CONTEXT_ROLES, STRIDES
from convstore.db.search_index import index_messages
from convstore.db.tables import messages as table
from convstore.db.unit_of_work import UnitOfWork
from convstore.messages.codec import digest, encode
from convstore.messages.conversation_items import get_item_id
from convstore.messages.message import Message
from convstore.messages.request_form import ITEM_FIELD
from convstore.messages.storable_text import to_column
from convstore.messages.token_counters import TokenCounter
from convstore.values.identifiers import NO_SEQ, ConversationKey, Position, Seq, TurnNumber
from convstore.values.results import MessageRecord

_INSERT = insert(table)


@dataclass(frozen=True, slots=True)
class Place:
    """Where new messages go: the numbers they get, and the message they follow."""

    first_seq: Seq
    """Number of the first new message; the others get the numbers after it."""
    after: MessageRecord | None
    """The message that the first new one follows; None: the new one begins a path."""
    turn: TurnNumber | None
    siblings: bool = False
    """True: all follow `after`; False: each follows the one before it."""


@dataclass(frozen=True, slots=True)
class MessageRows:
    """Rows of messages, and the attachments that they refer to."""

    values: list[dict[str, Any]]
    blobs: dict[bytes, bytes]


def insert_messages(
    work: UnitOfWork, key: ConversationKey, new: Sequence[Message], place: Place
) -> list[MessageRecord]:
    """Insert messages and add them to the search index; return them with their places.

    The caller has taken their numbers from the conversation's row before.
    """
    added: list[MessageRecord] = []
    for seq, message in enumerate(new, place.first_seq):
        parent = added[-1] if added and not place.siblings else place.after
        added.append(make_child(work.count_tokens, parent, Seq(seq), message, place.turn, work.now))
    insert_records(work, key, added)
    return added


def insert_records(work: UnitOfWork, key: ConversationKey, added: Sequence[MessageRecord]) -> None:
    """Insert messages with their places, and add them to the search index.

    The caller has taken their numbers from the conversation's row before.
    """
    insert_rows(work, key.owner, [make_rows(key, added)])
    index_messages(work.connection, key, added)


def make_rows(key: ConversationKey, records: Sequence[MessageRecord]) -> MessageRows:
    """Return the rows of messages with their places.

    Raises:
        InvalidMessage: a message cannot be written as JSON.
    """
    rows = MessageRows([], {})
    place = {"owner": key.owner, "conversation_id": key.id}
    for record in records:
        stored = encode(record.message)
        rows.blobs.update(stored.blobs)
        rows.values.append(
            {
                **place,
                "seq": record.seq,
                "parent_seq": record.parent_seq,
                "position": record.position,
                "role": stored.role,
                "name": stored.name,
                "content": stored.content,
                "extra": stored.extra,
                "tokens": record.tokens,
                "context_seq": record.context_seq,
                "turn_seq": record.turn,
                **_name_ancestors(record.back),
                "item_id": to_column(get_item_id(record.message)) if ITEM_FIELD in record.message else None,
                "digest": record.digest,
                "created_at": record.created_at,
            }
        )
    return rows


@lru_cache(maxsize=1024)  # messages after one another have the same
def _name_ancestors(back: tuple[Seq | None, ...]) -> dict[str, Seq | None]:
    return dict(zip(BACK_COLUMNS, back, strict=True))


def insert_rows(work: UnitOfWork, owner: str, rows: Sequence[MessageRows]) -> None:
    """Insert rows of messages of one owner, without adding them to the search index."""
    insert_attachments(
        work.connection, owner, {key: blob for some in rows for key, blob in some.blobs.items()}, work.now
    )
    if values := [row for some in rows for row in some.values]:
        work.connection.execute_many(_INSERT, values)


def make_child(
    count_tokens: TokenCounter,
    parent: MessageRecord | None,
    seq: Seq,
    message: Message,
    turn: TurnNumber | None,
    created_at: datetime,
) -> MessageRecord:
    """Return a new message with its place after another one; None: it begins a path."""
    tokens = count_tokens(message)
    if parent is None:
        return MessageRecord(Position(1), seq, NO_SEQ, turn, created_at, message, digest(b"", message), NO_SEQ, tokens)
    context = parent.seq if parent.message["role"] in CONTEXT_ROLES else parent.context_seq
    back = parent.back
    if parent.position % STRIDES[0] == 0:
        back = tuple(
            parent.seq if parent.position % stride == 0 else known for stride, known in zip(STRIDES, back, strict=True)
        )
    return MessageRecord(
        position=Position(parent.position + 1),
        seq=seq,
        parent_seq=parent.seq,
        turn=turn,
        created_at=created_at,
        message=message,
        digest=digest(parent.digest, message),
        context_seq=context,
        tokens=tokens,
        back=back,
    )
