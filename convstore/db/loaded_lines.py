"""Write conversations from the lines of convstore's own export."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

from sqlalchemy import Table, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_ignore
from convstore.db.drawer_rows import add_tags
from convstore.db.fork_sharing import Lineage, read_lineage, write_lineage
from convstore.db.message_rows import find_message, find_place
from convstore.db.message_writes import insert_records, make_child
from convstore.db.search_index import index_title, replace_title
from convstore.db.tables import conversations, messages, ratings, summaries, turns
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import InvalidInput
from convstore.messages.message import to_message
from convstore.messages.storable_text import from_column
from convstore.values.export_format import (
    CONVERSATION_FIELDS,
    MESSAGE_FIELDS,
    RATING_FIELDS,
    SUMMARY_FIELDS,
    TURN_FIELDS,
    Field,
    Kind,
    Line,
    make_columns,
)
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq, TurnNumber
from convstore.values.results import MessageRecord

_ROWS_AT_ONCE = 200
_KNOWN_RECORDS = 2_000  # messages that a new one may follow, kept in memory
_IS_THIS = (conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id"))
_STORED = select(
    conversations.c.lineage,
    conversations.c.lease_token,
    conversations.c.deleted_at,
    conversations.c.created_at,
    conversations.c.title,
    conversations.c.name,
).where(*_IS_THIS)
_NAMED = select(conversations.c.id).where(
    conversations.c.owner == bindparam("owner"),
    conversations.c.name == bindparam("name"),
    conversations.c.deleted_at.is_(None),
    conversations.c.id != bindparam("id"),
)
_ORIGIN = select(conversations.c.lineage).where(*_IS_THIS)
_INSERT = insert(conversations)
_UPDATED_COLUMNS = (*(field.name for field in CONVERSATION_FIELDS if field.name != "id"), "lineage")
# In an UPDATE, SQLAlchemy keeps the parameter names of the columns.
_UPDATE = (
    update(conversations)
    .where(conversations.c.owner == bindparam("key_owner"), conversations.c.id == bindparam("key_id"))
    .values({name: bindparam(f"new_{name}", type_=conversations.c[name].type) for name in _UPDATED_COLUMNS})
)
_DIGESTS = select(messages.c.seq, messages.c.digest).where(
    messages.c.owner == bindparam("owner"), messages.c.conversation_id == bindparam("id")
)
_TURN_BEGINNINGS = select(turns.c.seq, turns.c.started_at).where(
    turns.c.owner == bindparam("owner"), turns.c.conversation_id == bindparam("id")
)


_PLACE_FIELDS = tuple(field for field in MESSAGE_FIELDS if field.name in ("created_at", "digest"))
LOADED_TABLES = {table.name: table for table in (turns, summaries, ratings)}


@cache
def _insert_statement(dialect: str, loaded: str) -> Any:
    if loaded == turns.name:
        return insert(turns)
    return insert_or_ignore(LOADED_TABLES[loaded], dialect)  # what is here stays


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a conversation of an export."""

    is_new: bool
    is_deleted: bool
    """Whether it is deleted here, and stays so."""
    messages: int
    """Number of messages that were added."""
    notes: tuple[str, ...] = ()
    """What could not be carried over."""


class TakenId(InvalidInput):
    """The id of a conversation is taken by other contents."""


def load_conversation(
    work: UnitOfWork,
    key: ConversationKey,
    head: Line,
    iterate_lines: Callable[[], Iterable[Line]],
    origin_id: str | None,
) -> Loaded:
    """Store a conversation of an export, or what is new of it.

    Args:
        key: the conversation; its id may be another one than in the export.
        head: its line.
        iterate_lines: returns its other lines, checked, from the first one each time.
        origin_id: the id here of the conversation that it was forked from.

    Raises:
        TakenId: the id is taken by other contents.
        InvalidInput: the lines do not fit together, or a turn of the conversation is running here.
    """
    loading = _Loading(work, key, head, iterate_lines, origin_id)
    stored = work.connection.execute(_STORED, _bind(key)).one_or_none()
    return loading.insert() if stored is None else loading.update(stored)


class _Loading:
    """One conversation that is loaded, in one transaction."""

    def __init__(
        self,
        work: UnitOfWork,
        key: ConversationKey,
        head: Line,
        iterate_lines: Callable[[], Iterable[Line]],
        origin_id: str | None,
    ) -> None:
        self._work = work
        self._connection: Connection = work.connection
        self._key = key
        self._head = head
        self._iterate_lines = iterate_lines
        self._notes: list[str] = []
        self._lineage = self._make_lineage(origin_id)
        self._records: dict[Seq, MessageRecord] = {}

    def _make_lineage(self, origin_id: str | None) -> Lineage:
        """Return the lineage of the conversation, made of its origin's.

        Raises:
            InvalidInput: the origin is not here, or has other messages.
        """
        origin = self._head.get("forked_from")
        if origin is None:
            return Lineage(self._key)
        key = ConversationKey(self._key.owner, origin_id or origin["id"])
        row = self._connection.execute(_ORIGIN, _bind(key)).one_or_none()
        seq = Seq(origin["up_to_seq"])
        lineage = read_lineage(key, row.lineage) if row is not None else None
        shared = find_message(self._connection, lineage, seq) if lineage is not None and seq != NO_SEQ else None
        if lineage is None or (shared.digest.hex() if shared is not None else None) != origin.get("digest"):
            raise InvalidInput(f"it was forked from conversation {origin['id']!r}, which is not here with its messages")
        return lineage.fork(self._key, seq, TurnNumber(origin["up_to_turn"]))

    def insert(self) -> Loaded:
        """Store the conversation, which is new here."""
        columns = self._make_columns()
        self._connection.execute(_INSERT, {"owner": self._key.owner, **columns, "id": self._key.id})
        added = self._insert_lines(frozenset(), frozenset())
        add_tags(self._connection, self._key, self._head.get("tags", ()))
        index_title(self._connection, self._key, columns["created_at"], from_column(columns["title"]), columns["name"])
        return Loaded(is_new=True, is_deleted=False, messages=added, notes=tuple(self._notes))

    def update(self, stored: Any) -> Loaded:
        """Add what is new of a conversation that is here already."""
        digests = {row.seq: row.digest for row in self._connection.execute(_DIGESTS, _bind(self._key))}
        begun = {row.seq: row.started_at for row in self._connection.execute(_TURN_BEGINNINGS, _bind(self._key))}
        if not self._has_more(digests, begun):
            return Loaded(is_new=False, is_deleted=stored.deleted_at is not None, messages=0)
        if stored.deleted_at is not None:
            return Loaded(is_new=False, is_deleted=True, messages=0)
        if stored.lease_token is not None:
            raise InvalidInput("a turn of it is running; import the file again when it has ended")
        columns = self._make_columns()
        values = {f"new_{name}": columns[name] for name in _UPDATED_COLUMNS}
        self._connection.execute(_UPDATE, {"key_owner": self._key.owner, "key_id": self._key.id, **values})
        added = self._insert_lines(frozenset(digests), frozenset(begun))
        add_tags(self._connection, self._key, self._head.get("tags", ()))
        names = (from_column(stored.title), stored.name), (from_column(columns["title"]), columns["name"])
        replace_title(self._connection, self._key, stored.created_at, *names)
        return Loaded(is_new=False, is_deleted=False, messages=added, notes=tuple(self._notes))

    def _has_more(self, digests: dict[int, bytes], begun: dict[int, Any]) -> bool:
        """Return True if the export has messages or turns that are not here.

        Raises:
            TakenId: a message or a turn differs, or both sides have some that the other has not.
        """
        left, waiting = set(digests), set(begun)
        has_more = False
        for line in self._iterate_lines():
            if line["type"] == "message":
                known: Any = digests.get(line["seq"])
                is_same = known == bytes.fromhex(line["digest"])
                left.discard(line["seq"])
            elif line["type"] == "turn":
                known = begun.get(line["seq"])
                is_same = known == make_columns(line, TURN_FIELDS)["started_at"]
                waiting.discard(line["seq"])
            else:
                continue
            if known is None:
                has_more = True
            elif not is_same:
                raise self._make_taken()
        if has_more and (left or waiting):
            raise self._make_taken()
        return has_more

    def _make_taken(self) -> TakenId:
        return TakenId(f"the id {self._key.id!r} is taken by other contents; it can be imported with a new id")

    def _make_columns(self) -> dict[str, Any]:
        columns = make_columns(self._head, CONVERSATION_FIELDS)
        name = columns["name"]
        values = {**_bind(self._key), "name": name}
        if name is not None and self._connection.execute(_NAMED, values).first() is not None:
            self._notes.append(f"the name {name!r} is taken here, so it has none")
            columns["name"] = None
        if self._key.id != self._head["id"]:
            columns["creation_digest"] = None  # of the other id
        columns["lineage"] = write_lineage(self._lineage) if self._lineage.is_fork else None
        return columns

    def _insert_lines(self, stored: frozenset[int], begun: frozenset[int]) -> int:
        """Insert the messages, turns and summaries that are not stored; return the number of messages."""
        added = 0
        lines = iter(self._iterate_lines())
        while some := list(islice(lines, _ROWS_AT_ONCE)):
            by_type: dict[str, list[Line]] = {"message": [], "turn": [], "summary": []}
            for line in some:
                by_type[line["type"]].append(line)
            new = [self._make_record(line) for line in by_type["message"] if line["seq"] not in stored]
            insert_records(self._work, self._key, new)
            added += len(new)
            self._forget_records()
            self._insert_turns([line for line in by_type["turn"] if line["seq"] not in begun])
            self._insert_rows(summaries, by_type["summary"], SUMMARY_FIELDS)
            rated = [{**line["rating"], "seq": line["seq"]} for line in by_type["message"] if "rating" in line]
            self._insert_rows(ratings, rated, (*RATING_FIELDS, Field("seq", Kind.INTEGER)))
        self._check_head()
        return added

    def _insert_turns(self, lines: list[Line]) -> None:
        try:
            self._insert_rows(turns, lines, TURN_FIELDS)
        except IntegrityError:
            raise InvalidInput("two of its turns have the same idempotency key") from None

    def _insert_rows(self, table: Table, lines: list[Line], fields: tuple[Field, ...]) -> None:
        if lines:
            place = {"owner": self._key.owner, "conversation_id": self._key.id}
            rows = [{**place, **make_columns(line, fields)} for line in lines]
            self._connection.execute_many(_insert_statement(self._connection.dialect.name, table.name), rows)

    def _make_record(self, line: Line) -> MessageRecord:
        """Return the message of a line with its place.

        Raises:
            InvalidInput: it does not fit the message that it follows.
        """
        seq, parent_seq = Seq(line["seq"]), Seq(line["parent_seq"])
        parent = self._find_record(parent_seq) if parent_seq != NO_SEQ else None
        columns = make_columns(line, _PLACE_FIELDS)
        record = make_child(
            self._work.count_tokens, parent, seq, to_message(line["message"]), line.get("turn"), columns["created_at"]
        )
        if seq <= parent_seq or record.position != line["position"] or record.digest != columns["digest"]:
            raise InvalidInput(f"message seq {seq} does not fit its digest: it, or a message before it, was changed")
        record = replace(record, tokens=line.get("tokens"))
        self._records[seq] = replace(record, message={"role": record.message["role"]})  # what its children need
        return record

    def _find_record(self, seq: Seq) -> MessageRecord:
        record = self._records.get(seq) or find_message(self._connection, self._lineage, seq)
        if record is None:
            raise InvalidInput(f"message seq {seq}, which others follow, is missing")
        return record

    def _forget_records(self) -> None:
        """Forget the oldest messages; those that are needed again are read."""
        for seq in list(self._records)[:-_KNOWN_RECORDS]:
            del self._records[seq]

    def _check_head(self) -> None:
        """Check that the head is a message of the conversation, and at its position.

        Raises:
            InvalidInput: it is not.
        """
        seq, length = Seq(self._head["head_seq"]), self._head["length"]
        found = find_place(self._connection, self._lineage, seq) if seq != NO_SEQ else (NO_SEQ, 0)
        if found is None or found[1] != length or seq >= self._head["next_seq"]:
            raise InvalidInput(f"its head, message seq {seq} at position {length}, is not among its messages")


def _bind(key: ConversationKey) -> dict[str, Any]:
    return {"owner": key.owner, "id": key.id}
