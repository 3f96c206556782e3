"""Bringing in conversations that another program stored.

A conversation's id is made of the file's kind and the conversation's id in it, so that a later file finds it again. Its
messages are found again by their digests, which name a message and all before it: what is there already stays, what is
new is added, and what differs becomes a branch.

All that needs no database is done before a transaction begins, so that it is short: other programs may want to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any

from convstore.db.conversation_rows import get_conversation
from convstore.db.conversation_writes import FirstPath, NewConversation, insert_conversation
from convstore.db.erased_rows import delete_row
from convstore.db.head_rows import ConversationState, Head, move_head, read_state, take_late_numbers
from convstore.db.history_rows import read_digests, read_tree
from convstore.db.message_writes import MessageRows, insert_records, insert_rows, make_child, make_rows
from convstore.db.search_backlog import put_off, put_off_whole
from convstore.db.search_index import index_messages, index_title
from convstore.db.tombstone_rows import read_reasons, remove_tombstones
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import (
    ConversationBusy,
    ConversationDeleted,
    ConversationExists,
    ConversationNotFound,
    DamagedRow,
    InvalidInput,
)
from convstore.leases.claims import lock_conversation
from convstore.messages.codec import digest
from convstore.messages.first_title import find_title
from convstore.messages.message import Message, to_message
from convstore.messages.token_counters import TokenCounter
from convstore.transfer.imported import ImportedConversation
from convstore.values.identifiers import ConversationKey, Position, Seq, spell_id
from convstore.values.results import ErasureReason, MessageRecord
from convstore.values.validation import check_moment, check_title

_ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class PreparedConversation:
    """A conversation of a file, as it is stored if it is new."""

    imported: ImportedConversation
    new: NewConversation
    began: datetime
    path: FirstPath
    places: Mapping[str, MessageRecord]
    """The place of each imported message by its id."""
    records: Sequence[MessageRecord]
    """The messages; equal ones at the same place are one."""
    rows: MessageRows
    size: int
    """About how many bytes the rows have."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of an imported conversation."""

    is_new: bool = False
    is_deleted: bool = False
    messages: int = 0
    """Number of messages that were added."""
    not_indexed: int = 0
    """Number of the added messages that are not in the search index yet."""
    erased: ErasureReason | None = None
    """Why nothing was added, if the conversation was purged or redacted here."""
    refusal: str | None = None
    """Why nothing was added, if it is an error."""


def make_imported_id(kind: str, id: str) -> str:
    """Return the id that a conversation has here."""
    return spell_id(int.from_bytes(blake2b(f"{kind}\n{id}".encode(errors="surrogatepass"), digest_size=16).digest()))


def prepare_conversation(
    imported: ImportedConversation,
    key: ConversationKey,
    origin: Mapping[str, Any],
    count_tokens: TokenCounter,
    now: datetime,
) -> PreparedConversation:
    """Return a conversation of a file as it is stored.

    Args:
        origin: where it comes from, for its metadata.
        now: its time, if the file has none.

    Raises:
        InvalidInput: a message follows one that does not come before it, or a time has no time zone.
        InvalidMessage: a message is not one.
    """
    _check(imported)
    began = imported.created_at or next((one.created_at for one in imported.messages if one.created_at), now)
    messages = [to_message(one.message) for one in imported.messages]
    places, records = _place_messages(count_tokens, imported, messages, {}, Seq(1), began)
    model = {"model": imported.model} if imported.model else {}
    metadata = {**imported.metadata, "import": {**origin, "at": now.isoformat(), **model}}
    new = NewConversation(
        key=key,
        name=None,
        title=check_title(imported.title),
        settings={},
        metadata=metadata,
        window={},
        first=(),
        made_title=find_title(messages[:2]),
        digest=digest(b"", {"role": "import", "content": key.id}),
    )
    head = Head(Seq(0), Position(0))
    if records:
        last = places[imported.head if imported.head is not None else imported.messages[-1].id]
        head = Head(last.seq, last.position)
    path = FirstPath(head, Seq(len(records) + 1), max([began, *(record.created_at for record in records)]))
    rows = make_rows(key, records)
    return PreparedConversation(imported, new, began, path, places, records, rows, _measure(rows))


def try_conversations(
    work: UnitOfWork, prepared: Sequence[PreparedConversation], *, again: bool = False
) -> list[Imported]:
    """Return what `store_conversations` would do, and write nothing."""
    erased = {} if again else _find_erased(work, prepared)
    return [
        Imported(erased=erased[one.new.key.id]) if one.new.key.id in erased else _try(work, one) for one in prepared
    ]


def _find_erased(work: UnitOfWork, prepared: Sequence[PreparedConversation]) -> dict[str, ErasureReason]:
    """Return which conversations were purged or redacted here, and which of the two, by their ids."""
    if not prepared:
        return {}
    return read_reasons(work.connection, prepared[0].new.key.owner, [one.new.key.id for one in prepared])


def _try(work: UnitOfWork, prepared: PreparedConversation) -> Imported:
    key = prepared.new.key
    try:
        get_conversation(work.connection, key)
        known = set(read_digests(work.connection, read_state(work.connection, key).lineage))
    except ConversationDeleted:
        return Imported(is_deleted=True)
    except ConversationNotFound:
        return Imported(is_new=True, messages=len(prepared.records))
    return Imported(messages=sum(record.digest not in known for record in prepared.records))


def store_conversations(
    work: UnitOfWork, prepared: Sequence[PreparedConversation], most_indexed: int, *, again: bool = False
) -> list[Imported]:
    """Add what is new of conversations of one owner, and return what became of each.

    The head of a conversation that exists moves to the imported one if nothing else was said here since. A conversation
    that cannot be added does not keep the others from it: whatever refuses it, does so before anything is written.

    Args:
        most_indexed: how many messages to add to the search index; of the others, it is noted that they must be added.
        again: add what was purged or redacted here, too.
    """
    if again and prepared:
        remove_tombstones(work.connection, prepared[0].new.key.owner, [one.new.key.id for one in prepared])
    is_new = [_insert(work, one) for one in prepared]
    # After the rows were inserted: one that was purged at the same moment can only be inserted after the purge.
    erased = {} if again else _find_erased(work, prepared)
    for place, one in enumerate(prepared):
        if is_new[place] and one.new.key.id in erased:
            delete_row(work.connection, one.new.key)
            is_new[place] = False
    added = [one for one, is_inserted in zip(prepared, is_new, strict=True) if is_inserted]
    count = sum(len(one.records) for one in added)
    is_indexed = count <= most_indexed
    if added:
        _add_messages(work, added, is_indexed=is_indexed)
    most_indexed -= count if is_indexed else 0
    done: list[Imported] = []
    for one, is_inserted in zip(prepared, is_new, strict=True):
        if is_inserted:
            size = len(one.records)
            done.append(Imported(is_new=True, messages=size, not_indexed=0 if is_indexed else size))
        elif one.new.key.id in erased:
            done.append(Imported(erased=erased[one.new.key.id]))
        else:  # now, because a file may have the same conversation twice
            done.append(_go_on(work, one, most_indexed))
            most_indexed -= done[-1].messages - done[-1].not_indexed
    return done


def _insert(work: UnitOfWork, prepared: PreparedConversation) -> bool:
    """Insert a conversation without its messages; return False if it exists, or was deleted."""
    try:
        return insert_conversation(work.connection, prepared.new, prepared.began, prepared.path) is not None
    except ConversationExists:
        return False


def _add_messages(work: UnitOfWork, prepared: Sequence[PreparedConversation], *, is_indexed: bool) -> None:
    """Insert the messages of new conversations."""
    insert_rows(work, prepared[0].new.key.owner, [one.rows for one in prepared])
    if is_indexed:
        for one in prepared:
            index_title(work.connection, one.new.key, one.began, one.new.title)
            index_messages(work.connection, one.new.key, one.records)
    else:
        put_off_whole(work.connection, [one.new.key for one in prepared])


def _go_on(work: UnitOfWork, prepared: PreparedConversation, most_indexed: int) -> Imported:
    """Add the messages of a conversation that it does not have yet."""
    key, imported = prepared.new.key, prepared.imported
    try:
        before = get_conversation(work.connection, key)
        lineage = read_state(work.connection, key).lineage
        if {record.digest for record in prepared.records} <= set(read_digests(work.connection, lineage)):
            return Imported()
        state = lock_conversation(work, key)
        if reasons := _find_erased(work, [prepared]):  # at the same moment
            return Imported(erased=reasons[key.id])
        known = {record.digest: record for record in read_tree(work.connection, state.lineage)}
    except ConversationDeleted:
        return Imported(is_deleted=True)
    except (ConversationBusy, DamagedRow) as error:
        return Imported(refusal=str(error))
    messages = [prepared.places[one.id].message for one in imported.messages]
    places, new = _place_messages(work.count_tokens, imported, messages, known, state.next_seq, prepared.began)
    is_indexed = len(new) <= most_indexed
    if new:
        latest = max(before.updated_at, *(record.created_at for record in new))
        take_late_numbers(work.connection, key, len(new), latest)
        for start in range(0, len(new), _ROWS_AT_ONCE):
            some = new[start : start + _ROWS_AT_ONCE]
            if is_indexed:
                insert_records(work, key, some)
            else:
                insert_rows(work, key.owner, [make_rows(key, some)])
        if not is_indexed:
            put_off(work.connection, key, new[0].seq)
        _move_head(work, key, state, imported, places, latest)
    return Imported(messages=len(new), not_indexed=0 if is_indexed else len(new))


def _measure(rows: MessageRows) -> int:
    texts = sum(len(row["content"] or "") + len(row["extra"] or "") for row in rows.values)
    return texts + sum(map(len, rows.blobs.values()))


def _check(imported: ImportedConversation) -> None:
    """Check what the readers of files keep to, and an application's own may not.

    Raises:
        InvalidInput: it is not so.
    """
    known: set[str] = set()
    check_moment(imported.created_at, "created_at")
    for one in imported.messages:
        check_moment(one.created_at, "created_at")
        if one.parent is not None and one.parent not in known:
            raise InvalidInput(f"message {one.id!r:.80} follows {one.parent!r:.80}, which does not come before it")
        if one.id in known:
            raise InvalidInput(f"two messages have the id {one.id!r:.80}")
        known.add(one.id)
    if imported.head is not None and imported.head not in known:
        raise InvalidInput(f"the head {imported.head!r:.80} is no message of the conversation")


def _place_messages(
    count_tokens: TokenCounter,
    imported: ImportedConversation,
    messages: Sequence[Message],
    known: dict[bytes, MessageRecord],
    next_seq: Seq,
    began: datetime,
) -> tuple[dict[str, MessageRecord], list[MessageRecord]]:
    """Return the place of each imported message by its id, and the messages that are new."""
    found: dict[str, MessageRecord] = {}
    new: list[MessageRecord] = []
    for one, message in zip(imported.messages, messages, strict=True):
        parent = found[one.parent] if one.parent is not None else None
        moment = one.created_at or (parent.created_at if parent is not None else began)
        record = make_child(count_tokens, parent, Seq(next_seq + len(new)), message, None, moment)
        if (same := known.get(record.digest)) is None:
            known[record.digest] = record
            new.append(record)
        found[one.id] = same or record
    return found, new


def _move_head(
    work: UnitOfWork,
    key: ConversationKey,
    state: ConversationState,
    imported: ImportedConversation,
    found: Mapping[str, MessageRecord],
    now: datetime,
) -> None:
    """Move the head along if it is at a message of the imported path."""
    parents = {one.id: one.parent for one in imported.messages}
    last = imported.head if imported.head is not None else imported.messages[-1].id
    path: set[int] = {0}
    id: str | None = last
    while id is not None:
        path.add(found[id].seq)
        id = parents[id]
    if state.head.seq in path:
        move_head(work.connection, key, Head(found[last].seq, found[last].position), (), now)
