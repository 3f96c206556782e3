"""Find the messages that hold a secret: the copies of a message, and others in which its text occurs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Text, bindparam, select

from convstore.db.connection import Connection
from convstore.db.message_rows import decode_message, read_inline_data
from convstore.db.row_check import RowCheck
from convstore.db.tables import messages
from convstore.db.text_occurrences import MESSAGES, find_rows, list_spellings
from convstore.errors import DamagedRow
from convstore.messages.codec import StoredMessage, encode
from convstore.messages.message import Message
from convstore.messages.redacted_message import Secret
from convstore.values.identifiers import ConversationKey, Seq
from convstore.values.redaction_report import MessagePlace

_OF_CONVERSATION = (
    messages.c.owner == bindparam("owner"),
    messages.c.conversation_id == bindparam("conversation_id"),
)
_EQUAL = select(messages.c.seq, messages.c.parent_seq).where(
    *_OF_CONVERSATION,
    messages.c.role == bindparam("role"),
    messages.c.name.is_not_distinct_from(bindparam("name", type_=Text())),
    messages.c.content.is_not_distinct_from(bindparam("content", type_=Text())),
    messages.c.extra.is_not_distinct_from(bindparam("extra", type_=Text())),
)
_COLUMNS = (
    messages.c.seq,
    messages.c.position,
    messages.c.role,
    messages.c.name,
    messages.c.content,
    messages.c.extra,
)
_MESSAGE = select(*_COLUMNS).where(*_OF_CONVERSATION, messages.c.seq == bindparam("seq"))
_check_types = RowCheck(_COLUMNS)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A message that holds a secret."""

    place: MessagePlace
    is_copy: bool
    """Whether the message is equal to the one that is redacted."""


def find_copies(
    connection: Connection, owner: str, secret: Secret, parent_seq: Seq, conversation_ids: Iterable[str]
) -> dict[tuple[str, Seq], Occurrence]:
    """Return the messages of some conversations that equal the one with the secret, by conversation and `seq`.

    Of a short message such as "yes", only siblings are copies.

    Args:
        parent_seq: the message before the one with the secret.
        conversation_ids: conversations that share the one with the secret.
    """
    stored = encode(secret.original)
    columns = {"role": stored.role, "name": stored.name, "content": stored.content, "extra": stored.extra}
    spellings = list_spellings(secret)
    found: dict[tuple[str, Seq], Occurrence] = {}
    for id in conversation_ids:
        rows = connection.execute(_EQUAL, {"owner": owner, "conversation_id": id, **columns}).all()
        seqs = {Seq(row.seq) for row in rows if secret.is_distinctive or row.parent_seq == parent_seq}
        if secret.is_distinctive:
            seqs |= {Seq(row.number) for row in find_rows(connection, MESSAGES, owner, spellings, id)}
        for one in _read(connection, owner, secret, ((id, seq) for seq in sorted(seqs))):
            if one.is_copy:
                found[id, one.place.seq] = one
    return found


def find_occurrences(
    connection: Connection, owner: str, secret: Secret, except_for: Collection[tuple[str, Seq]] = ()
) -> list[Occurrence]:
    """Return the messages of an owner in which a secret occurs; one that is too short is not looked for.

    Args:
        except_for: messages that are left out.
    """
    rows = find_rows(connection, MESSAGES, owner, list_spellings(secret), None)
    keys = {(row.conversation_id, Seq(row.number)) for row in rows}
    return list(_read(connection, owner, secret, sorted(keys.difference(except_for))))


def _read(connection: Connection, owner: str, secret: Secret, keys: Iterable[tuple[str, Seq]]) -> Iterator[Occurrence]:
    for id, seq in keys:
        row = connection.execute(_MESSAGE, {"owner": owner, "conversation_id": id, "seq": seq}).one_or_none()
        if row is None:
            continue
        place = MessagePlace(id, seq, row.position, str(row.role))
        try:
            message = _decode(connection, owner, id, row)
        except DamagedRow:  # it cannot be changed, and the text is in it
            yield Occurrence(place, is_copy=False)
            continue
        is_copy = message == secret.original
        if is_copy or secret.blank(message) != message:
            yield Occurrence(place, is_copy)


def read_kept_message(connection: Connection, home: ConversationKey, seq: Seq) -> Message | None:
    """Return a message from the conversation that keeps it; None if it is not there.

    Raises:
        DamagedRow: it cannot be decoded.
    """
    values = {"owner": home.owner, "conversation_id": home.id, "seq": seq}
    row = connection.execute(_MESSAGE, values).one_or_none()
    return _decode(connection, home.owner, home.id, row) if row is not None else None


def _decode(connection: Connection, owner: str, id: str, row: Any) -> Message:
    _check_types([row], id, "message seq")
    stored = StoredMessage(row.role, row.name, row.content, row.extra)
    return decode_message(stored, read_inline_data(connection, owner, [stored]), id, row.seq)
