"""Requests that clients of the service sent with all their messages: found by the digests of their lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import LargeBinary, Select, bindparam, case, insert, null, select, update
from sqlalchemy.exc import IntegrityError

from convstore.db.connection import Connection
from convstore.db.tables import UtcDateTime, conversations
from convstore.db.tables import client_requests as table
from convstore.errors import DatabaseUnavailable
from convstore.messages.storable_text import to_json
from convstore.values.client_request import AskedPath, ClientRequest, SentBody
from convstore.values.identifiers import ConversationKey, Seq, TurnNumber

_INSERT = insert(table)
_OF_CONVERSATION = (table.c.owner == bindparam("key_owner"), table.c.conversation_id == bindparam("key_id"))
_OF_REPLY = ("reply_seq", "reply_digest", "tail_digest", "response_id")
_SET_REPLY = (
    update(table)
    .where(*_OF_CONVERSATION, table.c.turn_seq == bindparam("key_turn"))
    .values({name: bindparam(f"new_{name}") for name in _OF_REPLY})
)
_DIGESTS = ("asked_digest", "context_digest", "reply_digest", "tail_digest", "body_digest")
_FORGET = (
    update(table)
    .where(*_OF_CONVERSATION, table.c.asked_seq >= bindparam("first"))
    .values({name: null() for name in _DIGESTS})
)
_FORGET_REPLIES = (
    update(table)
    .where(*_OF_CONVERSATION, table.c.reply_seq >= bindparam("first"))
    .values(reply_digest=null(), tail_digest=null())
)
_SET_TAIL = (
    update(table)
    .where(*_OF_CONVERSATION, table.c.reply_seq == bindparam("seq"))
    .values(tail_digest=bindparam("new_tail_digest"))
    .returning(table.c.turn_seq)
)
_TAKE = (
    update(table)
    .where(*_OF_CONVERSATION, table.c.turn_seq == bindparam("key_turn"), table.c.taken_at.is_(None))
    .values(taken_at=bindparam("now", type_=UtcDateTime()))
)
_FREE_KEY = (
    update(table).where(*_OF_CONVERSATION, table.c.turn_seq == bindparam("key_turn")).values(idempotency_digest=null())
)
_STORED = (
    table.c.conversation_id,
    table.c.turn_seq,
    table.c.asked_seq,
    table.c.reply_seq,
    table.c.reply_digest,
    table.c.context_digest,
    table.c.body_digest,
    table.c.taken_at,
    table.c.created_at,
    conversations.c.head_seq,
)


def _select_stored(*where: Any, with_deleted: bool = False) -> Select[Any]:
    """Return the statement that finds requests of living conversations, those of the one used last first."""
    living = () if with_deleted else (conversations.c.deleted_at.is_(None),)
    return (
        select(*_STORED)
        .join(
            conversations,
            (conversations.c.owner == bindparam("owner")) & (conversations.c.id == table.c.conversation_id),
        )
        .where(table.c.owner == bindparam("owner"), *living, *where)
        .order_by(conversations.c.updated_at.desc(), table.c.created_at.desc(), table.c.conversation_id)
    )


_OF_SENDER = (table.c.sender == bindparam("sender"),)
_NAMED = (table.c.conversation_id == bindparam("named"),)
_MOST_CANDIDATES = 16
"""Equal paths that are looked at, those used last."""
_BY_ASKED, _BY_ASKED_IN = (
    _select_stored(table.c.asked_digest == bindparam("digest"), *where).limit(_MOST_CANDIDATES)
    for where in (_OF_SENDER, _NAMED)
)
_BY_TAIL = _select_stored(
    table.c.tail_digest == bindparam("digest"),
    *_OF_SENDER,
    conversations.c.head_seq == table.c.reply_seq,
    conversations.c.updated_at >= bindparam("since", type_=UtcDateTime()),
)
_BY_IDEMPOTENCY = _select_stored(table.c.idempotency_digest == bindparam("digest"), with_deleted=True)
_BY_BODY = _select_stored(
    table.c.asked_digest == bindparam("digest"),
    table.c.body_digest == bindparam("body"),
    table.c.created_at >= bindparam("since", type_=UtcDateTime()),
    table.c.taken_at.is_(None),
    *_OF_SENDER,
)
_CONTEXT_AT = select(table.c.context_digest).where(
    table.c.owner == bindparam("owner"),
    table.c.conversation_id == bindparam("named"),
    table.c.reply_seq == bindparam("seq"),
)


@cache
def _replies_statement(count: int, *, is_named: bool) -> Select[Any]:
    digests: list[Any] = [bindparam(f"digest_{number}", type_=LargeBinary) for number in range(count)]
    statement = _select_stored(table.c.reply_digest.in_(digests), *(_NAMED if is_named else _OF_SENDER))
    order = case(*((table.c.reply_digest == digest, place) for place, digest in enumerate(digests)), else_=count)
    used_last = (conversations.c.updated_at.desc(), table.c.created_at.desc(), table.c.conversation_id)
    return statement.order_by(None).order_by(order, *used_last).limit(_MOST_CANDIDATES)


@dataclass(frozen=True, slots=True)
class RequestFinder:
    """Whose requests are looked for."""

    owner: str
    sender: bytes
    conversation: str | None = None
    """Only those of this conversation, of whatever sender."""

    def bind(self) -> dict[str, Any]:
        """Return the parameters of a statement."""
        place = {"sender": self.sender} if self.conversation is None else {"named": self.conversation}
        return {"owner": self.owner, **place}


class ReplyMarks(NamedTuple):
    """How the reply of a request is found."""

    seq: Seq
    digest: bytes | None
    """Of all messages up to the reply; None: it must not be stored, or is not known."""
    tail: bytes | None
    """Of the last two exchanges, with the reply."""
    response_id: str | None
    """The column of the id by which the client knows the completion."""


def insert_request(
    connection: Connection,
    key: ConversationKey,
    turn: TurnNumber,
    asked_seq: Seq,
    asked: AskedPath,
    body: SentBody,
    now: datetime,
) -> None:
    """Store how a request is found. Its turn begins in the same transaction."""
    values = {
        "owner": key.owner,
        "conversation_id": key.id,
        "turn_seq": turn,
        "sender": body.sender,
        "asked_seq": asked_seq,
        "asked_digest": asked.digest,
        "context_digest": asked.context,
        "body_digest": body.digest,
        "idempotency_digest": body.idempotency,
        "metadata": to_json(body.metadata) if body.metadata else None,
        "created_at": now,
    }
    try:
        connection.execute(_INSERT, values)
    except IntegrityError as error:
        # Another caller used the idempotency key after this one had looked it up. The repeated transaction finds it.
        raise DatabaseUnavailable(
            "another caller just used the same idempotency key; try again", transient=True
        ) from error


def set_reply(connection: Connection, key: ConversationKey, turn: TurnNumber, reply: ReplyMarks) -> None:
    """Store how the reply of a request is found."""
    values = {f"new_{name}": value for name, value in zip(_OF_REPLY, reply, strict=True)}
    connection.execute(_SET_REPLY, {**_bind(key), "key_turn": turn, **values})


def find_by_replies(connection: Connection, finder: RequestFinder, digests: Sequence[bytes]) -> list[ClientRequest]:
    """Return the requests with one of these digests of their reply, those of the conversation used last first."""
    width = 1 << (len(digests) - 1).bit_length()  # few widths, because each is a statement of its own
    padded = [*digests, *[digests[-1]] * (width - len(digests))]
    values = {f"digest_{number}": digest for number, digest in enumerate(padded)}
    statement = _replies_statement(width, is_named=finder.conversation is not None)
    return _decode(connection.execute(statement, {**finder.bind(), **values}), finder.owner)


def find_by_asked(connection: Connection, finder: RequestFinder, digest: bytes) -> list[ClientRequest]:
    """Return the requests that asked the same, those of the conversation used last first."""
    statement = _BY_ASKED if finder.conversation is None else _BY_ASKED_IN
    return _decode(connection.execute(statement, {**finder.bind(), "digest": digest}), finder.owner)


def find_by_body(
    connection: Connection, owner: str, asked: bytes, body: SentBody, since: datetime
) -> list[ClientRequest]:
    """Return the requests since a time with this body, which no repetition has taken, oldest first."""
    values = {"owner": owner, "sender": body.sender, "digest": asked, "body": body.digest, "since": since}
    found = _decode(connection.execute(_BY_BODY, values), owner)
    return sorted(found, key=lambda one: (one.created_at, one.turn))


def find_by_tail(connection: Connection, finder: RequestFinder, digest: bytes, since: datetime) -> list[ClientRequest]:
    """Return the requests at heads that end with the same two exchanges, of conversations used since a time."""
    values = {"owner": finder.owner, "sender": finder.sender, "digest": digest, "since": since}
    return _decode(connection.execute(_BY_TAIL, values), finder.owner)


def find_by_idempotency(connection: Connection, owner: str, digest: bytes) -> ClientRequest | None:
    """Return the request that was sent with an idempotency key, or None."""
    found = _decode(connection.execute(_BY_IDEMPOTENCY, {"owner": owner, "digest": digest}), owner)
    return found[0] if found else None


def find_context(connection: Connection, key: ConversationKey, reply: Seq) -> bytes | None:
    """Return the digest of the system and developer messages that a request with this reply began with; or None."""
    values = {"owner": key.owner, "named": key.id, "seq": reply}
    row = connection.execute(_CONTEXT_AT, values).first()
    return row.context_digest if row is not None else None


def take_request(connection: Connection, key: ConversationKey, turn: TurnNumber, now: datetime) -> bool:
    """Mark that a repetition of a request got its reply; return False if another one did."""
    return bool(connection.execute(_TAKE, {**_bind(key), "key_turn": turn, "now": now}).rowcount)


def free_idempotency_key(connection: Connection, key: ConversationKey, turn: TurnNumber) -> None:
    """Free the idempotency key of a request that failed."""
    connection.execute(_FREE_KEY, {**_bind(key), "key_turn": turn})


def forget_digests(connection: Connection, key: ConversationKey, first: Seq) -> None:
    """Remove the digests of all requests that may have had a message, or one after it."""
    for statement in (_FORGET, _FORGET_REPLIES):
        connection.execute(statement, {**_bind(key), "first": first})


def set_tail(connection: Connection, key: ConversationKey, reply: Seq, tail: bytes | None) -> None:
    """Store the digest of the last two exchanges of the path that ends with a reply."""
    connection.execute(_SET_TAIL, {**_bind(key), "seq": reply, "new_tail_digest": tail})


def _bind(key: ConversationKey) -> dict[str, Any]:
    return {"key_owner": key.owner, "key_id": key.id}


def _decode(rows: Sequence[Any], owner: str) -> list[ClientRequest]:
    return [
        ClientRequest(
            key=ConversationKey(owner, row.conversation_id),
            turn=row.turn_seq,
            asked_seq=row.asked_seq,
            reply_seq=row.reply_seq,
            reply_digest=row.reply_digest,
            context=row.context_digest,
            body_digest=row.body_digest,
            is_taken=row.taken_at is not None,
            created_at=row.created_at,
            is_at_head=row.reply_seq == row.head_seq,
        )
        for row in rows
    ]
