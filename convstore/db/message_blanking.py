"""Rewrite messages without a secret, and the digests of all messages that follow them, in forks too.

A digest names a message and all before it, so that of every later message changes. Messages are read some at a time;
in memory stay 32 bytes for each that changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, select, update

from convstore.db.changed_digests import ChangedDigests
from convstore.db.connection import Connection
from convstore.db.fork_family import ForkFamily
from convstore.db.fork_sharing import Lineage, find_message_home, read_lineage
from convstore.db.message_rows import check_digest, decode_message, read_inline_data
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import missing_message
from convstore.db.search_index import replace_text
from convstore.db.tables import conversations, messages
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import DamagedRow
from convstore.messages.codec import StoredMessage, digest, encode, find_attachment_digests
from convstore.messages.first_title import MOST_POSITION, make_title
from convstore.messages.message import Message, extract_text
from convstore.messages.redacted_message import Secret
from convstore.messages.token_counters import make_fallback_counter
from convstore.values.identifiers import NO_SEQ, ConversationKey, Position, Seq, TurnNumber

_logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 200
_TITLE_CHARACTERS = 1_000  # a title is made of no more
_OF_CONVERSATION = (
    messages.c.owner == bindparam("owner"),
    messages.c.conversation_id == bindparam("conversation_id"),
)
_COLUMNS = (
    messages.c.seq,
    messages.c.parent_seq,
    messages.c.position,
    messages.c.role,
    messages.c.name,
    messages.c.content,
    messages.c.extra,
    messages.c.turn_seq,
    messages.c.digest,
    messages.c.created_at,
)
_ROWS = (
    select(*_COLUMNS)
    .where(*_OF_CONVERSATION, messages.c.seq >= bindparam("first"))
    .order_by(messages.c.seq)
    .limit(bindparam("most"))
)
_check_types = RowCheck(_COLUMNS)
_DIGEST = select(messages.c.digest).where(*_OF_CONVERSATION, messages.c.seq == bindparam("seq"))
_LINEAGE = select(conversations.c.lineage).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_THIS = (
    messages.c.owner == bindparam("key_owner"),
    messages.c.conversation_id == bindparam("key_id"),
    messages.c.seq == bindparam("key_seq"),
)
_SET_DIGEST = update(messages).where(*_THIS).values(digest=bindparam("new_digest"))
_SET_MESSAGE = (
    update(messages)
    .where(*_THIS)
    .values({name: bindparam(f"new_{name}") for name in ("role", "name", "content", "extra", "tokens", "digest")})
)


@dataclass(frozen=True, slots=True)
class BlankedMessage:
    """A message that was rewritten."""

    key: ConversationKey
    """The conversation that keeps it."""
    seq: Seq
    position: Position
    turn: TurnNumber | None
    role: str
    is_copy: bool
    """Whether it was the redacted message, or a copy of it."""
    beginning: str | None
    """How its text began, if a title may have been made of it; else None."""
    title: str | None
    """The title that is made of what is left of it."""


@dataclass(slots=True)
class Blanking:
    """What became of the messages."""

    messages: list[BlankedMessage] = field(default_factory=list)
    digests: int = 0
    attachments: set[bytes] = field(default_factory=set)
    """The files that rewritten messages do not have any more."""


def blank_messages(
    work: UnitOfWork, owner: str, secret: Secret, targets: Mapping[str, set[Seq]], family: ForkFamily
) -> Blanking:
    """Rewrite messages without a secret, and compute the digests of all that follow.

    A damaged message that follows stays as it is, and damaged.

    Args:
        targets: the messages, by the conversation that keeps them.
    """
    done = Blanking()
    changed: dict[str, ChangedDigests] = {}
    for id in family.list_with_forks(targets):
        fork = family.find(id)
        shared = changed.get(fork.origin) if fork is not None else None
        if fork is None or shared is None or (shared.first_seq or Seq(fork.up_to_seq + 1)) > fork.up_to_seq:
            digests, first = ChangedDigests(None, fork.up_to_seq if fork is not None else None), None
        else:
            digests, first = ChangedDigests(shared, fork.up_to_seq), Seq(fork.up_to_seq + 1)
        wanted = targets.get(id, set())
        if first is None and not wanted:
            continue
        changed[id] = digests
        key = ConversationKey(owner, id)
        _Rewriting(work, key, secret, wanted, digests, done).run(min(wanted) if first is None else first)
        done.digests += digests.count
    return done


class _Rewriting:
    """The messages of one conversation."""

    def __init__(
        self,
        work: UnitOfWork,
        key: ConversationKey,
        secret: Secret,
        wanted: set[Seq],
        digests: ChangedDigests,
        done: Blanking,
    ) -> None:
        self._work = work
        self._connection: Connection = work.connection
        self._key = key
        self._secret = secret
        self._wanted = wanted
        self._digests = digests
        self._done = done
        # The caller's own counter may fail.
        self._count_tokens = make_fallback_counter(work.count_tokens)
        self._lineage: Lineage | None = None

    def run(self, first: Seq) -> None:
        """Go through the messages from `first` on."""
        for rows in self._iterate_pages(first):
            new_digests: list[dict[str, Any]] = []
            for row in rows:
                try:
                    digest = self._find_new_digest(row)
                except DamagedRow:
                    _logger.warning("redact: message seq %s of conversation %s is damaged", row.seq, self._key.id)
                    continue
                if digest is not None:
                    new_digests.append({**self._bind(row.seq), "new_digest": digest})
            if new_digests:
                self._connection.execute_many(_SET_DIGEST, new_digests)

    def _iterate_pages(self, first: Seq) -> Iterator[list[Any]]:
        while True:
            values = {"owner": self._key.owner, "conversation_id": self._key.id, "first": first, "most": _ROWS_AT_ONCE}
            rows = self._connection.execute(_ROWS, values).all()
            yield rows
            if len(rows) < _ROWS_AT_ONCE:
                return
            first = Seq(rows[-1].seq + 1)

    def _find_new_digest(self, row: Any) -> bytes | None:
        """Return the new digest of a message that only follows another; rewrite one that has the secret.

        Raises:
            DamagedRow: the message is damaged.
        """
        is_wanted = row.seq in self._wanted
        parent = self._digests.find(row.parent_seq) if row.parent_seq != NO_SEQ else None
        if parent is None and not is_wanted:
            return None
        _check_types([row], self._key.id, "message seq")
        stored = StoredMessage(row.role, row.name, row.content, row.extra)
        texts = read_inline_data(self._connection, self._key.owner, [stored])
        message = decode_message(stored, texts, self._key.id, row.seq)
        before, after = parent or (self._read_digest(row.parent_seq),) * 2
        check_digest(row.digest, before, message, self._key.id, row.seq)
        new = self._secret.blank(message) if is_wanted else message
        new_digest = digest(after, new)
        self._digests.add(row.seq, row.digest, new_digest)
        if new is message:
            return new_digest
        self._rewrite(row, stored, message, new, new_digest)
        return None

    def _read_digest(self, seq: Seq) -> bytes:
        if seq == NO_SEQ:
            return b""
        home = find_message_home(self._connection, self._get_lineage(), seq)
        values = {"owner": home.owner, "conversation_id": home.id, "seq": seq}
        found: bytes | None = self._connection.scalar(_DIGEST, values)
        if found is None:
            raise missing_message(self._key.id, seq)
        return found

    def _get_lineage(self) -> Lineage:
        if self._lineage is None:
            column = self._connection.scalar(_LINEAGE, {"owner": self._key.owner, "id": self._key.id})
            self._lineage = read_lineage(self._key, column)
        return self._lineage

    def _rewrite(self, row: Any, before: StoredMessage, message: Message, new: Message, new_digest: bytes) -> None:
        stored = encode(new)
        values = {
            "new_role": stored.role,
            "new_name": stored.name,
            "new_content": stored.content,
            "new_extra": stored.extra,
            "new_tokens": self._count_tokens(new),
            "new_digest": new_digest,
        }
        self._connection.execute(_SET_MESSAGE, {**self._bind(row.seq), **values})
        replace_text(self._connection, self._key, row.seq, row.created_at, message, new)
        self._done.attachments |= find_attachment_digests(before) - find_attachment_digests(stored)
        is_titling = row.position <= MOST_POSITION and message["role"] == "user"
        self._done.messages.append(
            BlankedMessage(
                key=self._key,
                seq=row.seq,
                position=row.position,
                turn=row.turn_seq,
                role=str(message["role"]),
                is_copy=message == self._secret.original,
                beginning=extract_text(message)[:_TITLE_CHARACTERS] if is_titling else None,
                title=make_title(new) if is_titling else None,
            )
        )

    def _bind(self, seq: Seq) -> dict[str, Any]:
        return {"key_owner": self._key.owner, "key_id": self._key.id, "key_seq": seq}
