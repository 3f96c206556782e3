"""Bringing in a conversation that another program stored.

A conversation's id is made of the file's kind and the conversation's id in it, so that a later file finds it again. Its
messages are found again by their digests, which name a message and all before it: what is there already stays, what is
new is added, and what differs becomes a branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any

from convstore.db.conversation_rows import get_conversation
from convstore.db.conversation_writes import NewConversation, insert_conversation
from convstore.db.head_rows import ConversationState, Head, move_head, take_late_numbers
from convstore.db.history_rows import read_tree
from convstore.db.message_writes import insert_records, make_child
from convstore.db.search_index import index_title
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationDeleted, ConversationNotFound, InvalidInput
from convstore.leases.claims import lock_conversation
from convstore.messages.codec import digest
from convstore.messages.first_title import find_title
from convstore.messages.message import Message, to_message
from convstore.transfer.imported import ImportedConversation
from convstore.values.identifiers import ConversationKey, Seq, spell_id
from convstore.values.results import MessageRecord
from convstore.values.validation import check_moment, check_title

_ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of an imported conversation."""

    key: ConversationKey
    is_new: bool
    is_deleted: bool
    messages: int
    """Number of messages that were added."""


def make_imported_id(kind: str, id: str) -> str:
    """Return the id that a conversation has here."""
    return spell_id(int.from_bytes(blake2b(f"{kind}\n{id}".encode(errors="surrogatepass"), digest_size=16).digest()))


def store_imported(
    work: UnitOfWork,
    owner: str,
    kind: str,
    imported: ImportedConversation,
    origin: Mapping[str, Any],
    *,
    is_trial: bool,
) -> Imported:
    """Add what is new of a conversation.

    The head moves to the imported one if nothing else was said here since.

    Args:
        origin: where it comes from, for its metadata.
        is_trial: write nothing.

    Raises:
        ConversationBusy: a turn of the conversation is running.
        InvalidInput: a message follows one that does not come before it, or a time has no time zone.
        InvalidMessage: a message is not one.
    """
    key = ConversationKey(owner, make_imported_id(kind, imported.id))
    _check(imported)
    began = imported.created_at or next((one.created_at for one in imported.messages if one.created_at), work.now)
    messages = [to_message(one.message) for one in imported.messages]
    is_new, changed_at = False, began
    try:
        changed_at = get_conversation(work.connection, key).updated_at
    except ConversationDeleted:
        return Imported(key, is_new=False, is_deleted=True, messages=0)
    except ConversationNotFound:
        is_new = True
    if is_trial and is_new:
        return Imported(key, is_new=True, is_deleted=False, messages=len(messages))
    if is_new:
        _create(work, key, imported, origin, began)
    state = lock_conversation(work, key, None)
    known = {record.digest: record for record in read_tree(work.connection, state.lineage)} if not is_new else {}
    found, new = _place_messages(work, state, imported, messages, known, began)
    if new and not is_trial:
        latest = max(changed_at, *(record.created_at for record in new))
        take_late_numbers(work.connection, key, len(new), latest)
        for start in range(0, len(new), _ROWS_AT_ONCE):
            insert_records(work, key, new[start : start + _ROWS_AT_ONCE])
        _move_head(work, key, state, imported, found, latest)
    return Imported(key, is_new=is_new, is_deleted=False, messages=len(new))


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


def _create(
    work: UnitOfWork, key: ConversationKey, imported: ImportedConversation, origin: Mapping[str, Any], began: datetime
) -> None:
    metadata = {**imported.metadata, "import": {**origin, **({"model": imported.model} if imported.model else {})}}
    new = NewConversation(
        key=key,
        name=None,
        title=check_title(imported.title),
        settings={},
        metadata=metadata,
        window={},
        first=(),
        made_title=find_title([to_message(one.message) for one in imported.messages[:2]]),
        digest=digest(b"", {"role": "import", "content": key.id}),
    )
    insert_conversation(work.connection, new, began)
    index_title(work.connection, key, began, imported.title)


def _place_messages(
    work: UnitOfWork,
    state: ConversationState,
    imported: ImportedConversation,
    messages: list[Message],
    known: dict[bytes, MessageRecord],
    began: datetime,
) -> tuple[dict[str, MessageRecord], list[MessageRecord]]:
    """Return the place of each imported message by its id, and the messages that are new."""
    found: dict[str, MessageRecord] = {}
    new: list[MessageRecord] = []
    for one, message in zip(imported.messages, messages, strict=True):
        parent = found[one.parent] if one.parent is not None else None
        name = digest(parent.digest if parent is not None else b"", message)
        record = known.get(name)
        if record is None:
            moment = one.created_at or (parent.created_at if parent is not None else began)
            record = make_child(work, parent, Seq(state.next_seq + len(new)), message, None, moment)
            known[name] = record
            new.append(record)
        found[one.id] = record
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
