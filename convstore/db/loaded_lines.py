"""Write conversations from the lines of convstore's own export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any, cast

from sqlalchemy import Table, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_ignore
from convstore.db.drawer_rows import add_tags, keep_later_rating
from convstore.db.fork_sharing import Lineage, write_lineage
from convstore.db.message_rows import find_existing, find_message, find_place
from convstore.db.message_writes import insert_records, insert_rows, make_child, make_rows
from convstore.db.redaction_rows import mark_messages
from convstore.db.search_backlog import put_off, put_off_whole
from convstore.db.search_index import index_title, replace_title
from convstore.db.stored_conversation import StoredConversation, is_exported_running, read_stored, read_stored_lineage
from convstore.db.tables import conversations, summaries, turns
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import DatabaseUnavailable, InvalidInput
from convstore.messages.message import to_message
from convstore.messages.storable_text import from_column
from convstore.values.export_format import (
    CONVERSATION_FIELDS,
    MESSAGE_FIELDS,
    SUMMARY_FIELDS,
    TURN_FIELDS,
    Field,
    Line,
    make_columns,
    make_rating,
    make_redaction_mark,
)
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq, TurnNumber
from convstore.values.results import ErasureReason, MessageRecord

_ROWS_AT_ONCE = 200
_KNOWN_RECORDS = 2_000  # messages that a new one may follow, kept in memory
_NAMED = select(conversations.c.id).where(
    conversations.c.owner == bindparam("owner"),
    conversations.c.name == bindparam("name"),
    conversations.c.deleted_at.is_(None),
    conversations.c.id != bindparam("id"),
)
_INSERT = insert(conversations)
_DELETE_TURN = delete(turns).where(
    turns.c.owner == bindparam("owner"),
    turns.c.conversation_id == bindparam("conversation_id"),
    turns.c.seq == bindparam("seq"),
)
_PLACE_COLUMNS = ("head_seq", "length", "next_seq", "next_turn", "pins", "redo", "summary_turn", "updated_at")
_DESCRIBING_COLUMNS = ("name", "title", "made_title", "settings", "metadata", "window", "updated_at")
_BEGINNING_FIELDS = tuple(field for field in TURN_FIELDS if field.name == "started_at")
_MESSAGES_OF_TURN = ("first_input_seq", "last_input_seq", "output_seq")
_PLACE_FIELDS = tuple(field for field in MESSAGE_FIELDS if field.name in ("created_at", "digest"))
LOADED_TABLES = {table.name: table for table in (turns, summaries)}


@cache
def _insert_statement(dialect: str, loaded: str) -> Any:
    if loaded == turns.name:
        return insert(turns)
    return insert_or_ignore(LOADED_TABLES[loaded], dialect)  # what is here stays


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a conversation of an export."""

    is_new: bool = False
    is_changed: bool = False
    is_deleted: bool = False
    """Whether it is deleted here, and stays so."""
    messages: int = 0
    """Number of messages that were added."""
    not_indexed: int = 0
    """Number of the added messages that are not in the search index yet."""
    notes: tuple[str, ...] = ()
    """What could not be carried over."""
    erased: ErasureReason | None = None
    """Why nothing was stored, if the conversation was purged or redacted here."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What of an export is here already."""

    messages: frozenset[int]
    turns: frozenset[int]
    """Without those to be replaced."""
    to_replace: frozenset[int]
    """Turns that were running when an earlier export was written, and that have ended since."""
    has_more: bool
    """Whether the export has messages or turns that are not here, or turns to be replaced."""


class TakenId(InvalidInput):
    """The id of a conversation is taken by other contents."""


def load_conversation(
    work: UnitOfWork,
    key: ConversationKey,
    head: Line,
    iterate_lines: Callable[[], Iterable[Line]],
    origin_id: str | None,
    *,
    is_indexed: bool,
) -> Loaded:
    """Store a conversation of an export, or what is new of it. The caller has locked it, if it is here and not deleted.

    Args:
        key: the conversation; its id may be another one than in the export.
        head: its line.
        iterate_lines: returns its other lines, checked, from the first one each time.
        origin_id: the id here of the conversation that it was forked from.
        is_indexed: add it to the search index; False: note that it must be added later.

    Raises:
        TakenId: the id is taken by other contents.
        InvalidInput: the lines do not fit together.
        DatabaseUnavailable: another transaction stored it, or took its name, at the same time; repeat this one.
    """
    stored = read_stored(work.connection, key)
    try:
        if stored is None:
            lineage = _make_lineage(work.connection, key, head, origin_id)
            return _Loading(work, lineage, head, iterate_lines, is_indexed=is_indexed).insert()
        return _Loading(work, stored.lineage, head, iterate_lines, is_indexed=is_indexed).update(stored)
    except IntegrityError as error:
        raise DatabaseUnavailable(
            f"conversation {key.id!r}: another transaction stored it, or took its name, at the same time; try again",
            transient=True,
        ) from error


def _make_lineage(connection: Connection, key: ConversationKey, head: Line, origin_id: str | None) -> Lineage:
    """Return the lineage of a new conversation, made of its origin's.

    Raises:
        InvalidInput: the origin is not here, or has other messages.
    """
    origin = head.get("forked_from")
    if origin is None:
        return Lineage(key)
    lineage = read_stored_lineage(connection, ConversationKey(key.owner, origin_id or origin["id"]))
    if lineage is None or not _has_shared(connection, lineage, origin):
        raise InvalidInput(f"it was forked from conversation {origin['id']!r}, which is not here with its messages")
    return lineage.fork(key, Seq(origin["up_to_seq"]), TurnNumber(origin["up_to_turn"]))


def _has_shared(connection: Connection, lineage: Lineage, origin: Line) -> bool:
    """Return True if a conversation has the last message that an exported fork shares."""
    seq = Seq(origin["up_to_seq"])
    shared = find_message(connection, lineage, seq) if seq != NO_SEQ else None
    return (shared.digest.hex() if shared is not None else None) == origin.get("digest")


def _read_beginning(line: Line) -> datetime:
    """Return when the turn of a line began."""
    beginning: datetime = make_columns(line, _BEGINNING_FIELDS)["started_at"]
    return beginning


class _Loading:
    """One conversation that is loaded, in one transaction."""

    def __init__(
        self,
        work: UnitOfWork,
        lineage: Lineage,
        head: Line,
        iterate_lines: Callable[[], Iterable[Line]],
        *,
        is_indexed: bool,
    ) -> None:
        self._work = work
        self._connection: Connection = work.connection
        self._key = lineage.key
        self._head = head
        self._iterate_lines = iterate_lines
        self._notes: list[str] = []
        self._lineage = lineage
        self._is_indexed = is_indexed
        self._first_added: Seq | None = None
        self._records: dict[Seq, MessageRecord] = {}

    def insert(self) -> Loaded:
        """Store the conversation, which is new here."""
        columns = self._make_columns()
        columns["lineage"] = write_lineage(self._lineage) if self._lineage.is_fork else None
        if self._key.id != self._head["id"]:
            columns["creation_digest"] = None  # of the other id
        self._connection.execute(_INSERT, {"owner": self._key.owner, **columns, "id": self._key.id})
        added = self._insert_lines(frozenset(), frozenset())
        add_tags(self._connection, self._key, (self._head.get("tags") or ()))
        if self._is_indexed:
            title = from_column(columns["title"])
            index_title(self._connection, self._key, columns["created_at"], title, columns["name"])
        else:
            put_off_whole(self._connection, [self._key])
        return Loaded(is_new=True, messages=added, not_indexed=self._count_put_off(added), notes=tuple(self._notes))

    def update(self, stored: StoredConversation) -> Loaded:
        """Add what is new of the conversation, which is here already.

        What describes it is the export's if that was changed later. It is neither archived nor deleted by an import.
        """
        known = self._compare(stored)
        if stored.row.deleted_at is not None:
            return Loaded(is_deleted=True)
        columns = self._make_columns()
        describes = columns["updated_at"] > stored.row.updated_at
        names = [*(_PLACE_COLUMNS if known.has_more else ()), *(_DESCRIBING_COLUMNS if describes else ())]
        values = {name: columns[name] for name in names}
        for name in ("next_seq", "next_turn"):  # whatever was numbered here keeps its number
            if name in values:
                values[name] = max(values[name], getattr(stored.row, name))
        is_changed = any(getattr(stored.row, name) != value for name, value in values.items())
        if is_changed:
            # The names of columns are of this module.
            self._connection.plain.execute(
                update(conversations)
                .where(conversations.c.owner == self._key.owner, conversations.c.id == self._key.id)
                .values(values)
            )
        for turn in known.to_replace:
            self._connection.execute(
                _DELETE_TURN, {"owner": self._key.owner, "conversation_id": self._key.id, "seq": turn}
            )
        added = self._insert_lines(known.messages, known.turns)
        new_tags = [tag for tag in (self._head.get("tags") or ()) if tag not in stored.tags]
        add_tags(self._connection, self._key, new_tags)
        if describes:
            before = from_column(stored.row.title), stored.row.name
            after = from_column(columns["title"]), columns["name"]
            replace_title(self._connection, self._key, stored.row.created_at, before, after)
        if self._first_added is not None and not self._is_indexed:
            put_off(self._connection, self._key, self._first_added)
        return Loaded(
            is_changed=is_changed or known.has_more or bool(new_tags),
            messages=added,
            not_indexed=self._count_put_off(added),
            notes=tuple(self._notes),
        )

    def _count_put_off(self, added: int) -> int:
        return 0 if self._is_indexed else added

    def _compare(self, stored: StoredConversation) -> _Known:
        """Return what of the export is here already.

        Raises:
            TakenId: a message or a turn differs, or both sides have some that the other has not.
        """
        origin = self._head.get("forked_from") or {"up_to_seq": NO_SEQ, "up_to_turn": 0}
        if not _has_shared(self._connection, stored.lineage, origin):
            raise self._make_taken()
        messages_left = {seq for seq in stored.digests if seq > origin["up_to_seq"]}
        turns_left = {seq for seq in stored.turns if seq > origin["up_to_turn"]}
        to_replace: set[int] = set()
        has_more = False
        for line in self._iterate_lines():
            if line["type"] == "message":
                seq: int = line["seq"]
                digest = stored.digests.get(seq)
                messages_left.discard(seq)
                is_new = digest is None and seq > stored.shared_seq
                is_same = digest == bytes.fromhex(line["digest"])
            elif line["type"] == "turn":
                number: int = line["seq"]
                turn = stored.turns.get(number)
                turns_left.discard(number)
                is_new = turn is None and number > stored.shared_turn
                is_same = turn is not None and turn.started_at == _read_beginning(line)
                if turn is not None and turn.is_exported_running and not is_exported_running(line.get("error")):
                    to_replace.add(number)
            else:
                continue
            has_more = has_more or is_new
            if not is_new and not is_same:
                raise self._make_taken()
        if has_more and (messages_left or turns_left):
            raise self._make_taken()
        return _Known(
            frozenset(stored.digests),
            frozenset(stored.turns) - to_replace,
            frozenset(to_replace),
            has_more or bool(to_replace),
        )

    def _make_taken(self) -> TakenId:
        return TakenId(f"the id {self._key.id!r} is taken by other contents; it can be imported with a new id")

    def _make_columns(self) -> dict[str, Any]:
        columns = make_columns(self._head, CONVERSATION_FIELDS)
        name = columns["name"]
        values = {**_bind(self._key), "name": name}
        if name is None or columns["deleted_at"] is not None:
            return columns
        if self._connection.execute(_NAMED, values).first() is not None:
            self._notes.append(f"the name {name!r} is taken here, so it has none")
            columns["name"] = None
        return columns

    def _insert_lines(self, stored: frozenset[int], begun: frozenset[int]) -> int:
        """Insert the messages, turns and summaries that are not stored; return the number of messages."""
        added = 0
        near = self._lineage.origins[0] if self._lineage.is_fork else None
        shared_seq, shared_turn = (near.up_to_seq, near.up_to_turn) if near is not None else (0, 0)
        lines = iter(self._iterate_lines())
        while some := list(islice(lines, _ROWS_AT_ONCE)):
            by_type: dict[str, list[Line]] = {"message": [], "turn": [], "summary": []}
            for line in some:
                by_type[line["type"]].append(line)
            new = [self._make_record(line) for line in by_type["message"] if line["seq"] not in stored]
            if new:
                self._insert_messages(new)
            added += len(new)
            self._forget_records()
            self._insert_turns([line for line in by_type["turn"] if line["seq"] not in begun])
            own = [line for line in by_type["summary"] if line["turn_seq"] > shared_turn]
            self._insert_rows(summaries, own, SUMMARY_FIELDS)
            for line in by_type["message"]:
                if line.get("rating") is not None and line["seq"] > shared_seq:  # an origin has the others
                    keep_later_rating(self._connection, self._key, make_rating(line["seq"], line["rating"]))
            marks = {line["seq"]: line["redaction"] for line in by_type["message"] if "redaction" in line}
            marked = [record.seq for record in new if record.seq in marks]
            mark_messages(self._connection, [(self._key, seq, make_redaction_mark(marks[seq])) for seq in marked])
        self._check_places()
        return added

    def _insert_messages(self, new: Sequence[MessageRecord]) -> None:
        if self._first_added is None:
            self._first_added = new[0].seq
        if self._is_indexed:
            insert_records(self._work, self._key, new)
        else:
            insert_rows(self._work, self._key.owner, [make_rows(self._key, new)])

    def _insert_turns(self, lines: list[Line]) -> None:
        self._check_messages([line[name] for line in lines for name in _MESSAGES_OF_TURN if line.get(name) is not None])
        try:
            self._insert_rows(turns, lines, TURN_FIELDS)
        except IntegrityError:
            raise InvalidInput("two of its turns have the same idempotency key") from None

    def _check_messages(self, seqs: list[int]) -> None:
        """Check that messages exist that other rows name.

        Raises:
            InvalidInput: one is missing.
        """
        wanted = {Seq(seq) for seq in seqs if seq != NO_SEQ}
        missing = wanted - set(find_existing(self._connection, self._lineage, wanted))
        if missing:
            raise InvalidInput(f"message seq {min(missing)}, which another line names, is missing")

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
        message, turn, tokens = to_message(line["message"]), line.get("turn"), line.get("tokens")

        def get_tokens(_: object) -> int:
            return cast(int, tokens)  # None too: they were not counted where the export was written

        record = make_child(get_tokens, parent, seq, message, turn, columns["created_at"])
        if seq <= parent_seq or record.position != line["position"] or record.digest != columns["digest"]:
            raise InvalidInput(f"message seq {seq} does not fit its digest: it, or a message before it, was changed")
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

    def _check_places(self) -> None:
        """Check that the head, the pins and what was undone are messages of the conversation.

        Raises:
            InvalidInput: one is not.
        """
        seq, length = Seq(self._head["head_seq"]), self._head["length"]
        found = find_place(self._connection, self._lineage, seq) if seq != NO_SEQ else (NO_SEQ, 0)
        if found is None or found[1] != length or seq >= self._head["next_seq"]:
            raise InvalidInput(f"its head, message seq {seq} at position {length}, is not among its messages")
        self._check_messages([*(self._head.get("redo") or ()), *(pin[0] for pin in self._head.get("pins") or ())])


def _bind(key: ConversationKey) -> dict[str, Any]:
    return {"owner": key.owner, "id": key.id}
