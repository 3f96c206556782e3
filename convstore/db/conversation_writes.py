"""Write rows of conversations: insert, fork, lock, change, delete, restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import bindparam, literal, select, update
from sqlalchemy.exc import IntegrityError

from convstore.db.connection import Connection
from convstore.db.conversation_rows import NEW_COLUMNS, decode_conversation, get_conversation
from convstore.db.dialect import insert_or_ignore, is_sqlite
from convstore.db.fork_sharing import Lineage, write_lineage
from convstore.db.head_rows import Head, Pin, encode_pins
from convstore.db.row_errors import conversation_locked, conversation_not_found
from convstore.db.search_index import replace_title
from convstore.db.tables import conversations as table
from convstore.errors import ConversationDeleted, ConversationExists, ConversationNotFound
from convstore.messages.message import Message
from convstore.messages.storable_text import to_column, to_json
from convstore.values.completion_parameters import merge_parameters
from convstore.values.identifiers import ConversationKey, Position, Seq, TurnNumber
from convstore.values.results import UNCHANGED, Conversation, Given, Unchanged
from convstore.values.window_options import merge_window_options

_LIVING = (table.c.owner == bindparam("owner"), table.c.deleted_at.is_(None))
_NAMED = select(table.c.id).where(*_LIVING, table.c.name == bindparam("name"))
_DIGEST = select(table.c.creation_digest).where(*_LIVING, table.c.id == bindparam("id"))
_THIS = select(table.c.id).where(*_LIVING, table.c.id == bindparam("id"))
_LOCK = _THIS.with_for_update(skip_locked=True, key_share=True)
_HOLD = _THIS.with_for_update(skip_locked=True, key_share=True, read=True)


# In an UPDATE, SQLAlchemy keeps the parameter names `owner` and `id` for the columns.
_OF_CONVERSATION = (table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"))
_TAKE_TURN_NUMBER = (
    update(table)
    .where(*_OF_CONVERSATION, table.c.deleted_at.is_(None))
    .values(next_turn=table.c.next_turn + 1)
    .returning(table.c.next_turn)
)
_SET_PINS = update(table).where(*_OF_CONVERSATION).values(pins=bindparam("pinned"))
_DELETE = update(table).where(*_OF_CONVERSATION, table.c.deleted_at.is_(None)).values(deleted_at=bindparam("now"))
_RESTORE = update(table).where(*_OF_CONVERSATION, table.c.deleted_at.is_not(None)).values(deleted_at=None)
_DELETED_NAME = select(table.c.name).where(*_OF_CONVERSATION, table.c.deleted_at.is_not(None)).scalar_subquery()
_NAME_IS_TAKEN = select(literal(1)).where(
    table.c.owner == bindparam("key_owner"), table.c.deleted_at.is_(None), table.c.name == _DELETED_NAME
)


@dataclass(frozen=True, slots=True)
class NewConversation:
    """The values of a new conversation."""

    key: ConversationKey
    name: str | None
    title: str | None
    settings: dict[str, Any]
    metadata: dict[str, Any]
    window: dict[str, Any]
    first: Sequence[Message]
    """The messages that the conversation begins with."""
    made_title: str | None
    """What its title is if it is given none."""
    digest: bytes
    """Digest of all the other fields. A second conversation with the same id and digest is the first one again."""


@dataclass(frozen=True, slots=True)
class FirstPath:
    """Where a new conversation stands if it begins with a tree of messages."""

    head: Head
    next_seq: Seq
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class NewFork:
    """The values of a new fork; it copies all others from the origin."""

    name: str | None
    title: Given[str]
    head: Head
    lineage: Lineage
    next_turn: TurnNumber
    pins: Sequence[Pin]
    """The pins in the shared past. Later pins are left out, because the fork gives their numbers to other messages."""
    summary_turn: TurnNumber | None
    inherited_model: str | None
    made_title: Given[str]
    """What its title is if it has no other. It is not made of a message that the fork does not share."""


@dataclass(frozen=True, slots=True)
class ConversationChange:
    """What to change about a conversation; UNCHANGED leaves a value, None removes it."""

    name: Given[str] = UNCHANGED
    title: Given[str] = UNCHANGED
    metadata: Given[Mapping[str, Any]] = UNCHANGED
    """Replaces all metadata."""
    metadata_texts: Given[Mapping[str, str]] = UNCHANGED
    """Replaces the texts in the metadata; what is no text stays."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Checked completion parameters, merged into the sticky ones."""
    window: Mapping[str, Any] = field(default_factory=dict)
    """Checked window options, merged into the sticky ones."""


@cache
def _insert_statement(dialect: str) -> Any:
    return insert_or_ignore(table, dialect).returning(table.c.id)


_GIVEN_TO_FORK = (
    *("id", "name", "head_seq", "length", "next_seq", "next_turn", "lineage", "inherited_model", "pins"),
    *("summary_turn", "created_at", "updated_at"),
)
# The owner too, so that a distributed PostgreSQL knows that the new row is on the same server.
_COPIED_TO_FORK = ("owner", "settings", "metadata", "window")
_TITLES = ("title", "made_title")  # copied too, unless they are given


@cache
def _fork_statement(dialect: str, given: tuple[str, ...]) -> Any:
    """Return the statement that inserts a fork.

    Args:
        given: which titles do not come from the origin.
    """
    titles = (
        (bindparam(f"new_{name}", type_=table.c[name].type) if name in given else table.c[name]).label(name)
        for name in _TITLES
    )
    row = select(
        *(bindparam(f"new_{name}", type_=table.c[name].type).label(name) for name in _GIVEN_TO_FORK),
        *(table.c[name] for name in _COPIED_TO_FORK),
        *titles,
    ).where(table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"))
    columns = [*_GIVEN_TO_FORK, *_COPIED_TO_FORK, *_TITLES]
    return insert_or_ignore(table, dialect).from_select(columns, row).returning(*NEW_COLUMNS)


def insert_conversation(
    connection: Connection, new: NewConversation, now: datetime, path: FirstPath | None = None
) -> Conversation | None:
    """Insert a conversation without its messages, and return it.

    Return None if the same conversation exists already.

    Args:
        path: where it stands; None: at the last message of `new.first`.

    Raises:
        ConversationExists: the id is taken by a conversation with other content, or the name is taken.
    """
    key, length = new.key, len(new.first)
    if path is None:
        path = FirstPath(Head(Seq(length), Position(length)), Seq(length + 1), now)
    created = connection.execute(
        _insert_statement(connection.dialect.name),
        {
            "owner": key.owner,
            "id": key.id,
            "name": new.name,
            "title": to_column(new.title),
            "made_title": to_column(new.made_title),
            "settings": to_json(new.settings),
            "metadata": to_json(new.metadata),
            "window": to_json(new.window) if new.window else None,
            "head_seq": path.head.seq,
            "length": path.head.position,
            "next_seq": path.next_seq,
            "next_turn": 1,
            "creation_digest": new.digest,
            "created_at": now,
            "updated_at": path.updated_at,
        },
    ).one_or_none()
    if created is None:
        if connection.scalar(_DIGEST, {"owner": key.owner, "id": key.id}) == new.digest:
            return None
        if new.name is not None and _find_named(connection, key.owner, new.name) is not None:
            raise _make_name_taken(new.name)
        if isinstance(conversation_not_found(connection, key), ConversationDeleted):
            raise ConversationExists(
                f"the id {key.id!r} belongs to a deleted conversation; restore it, or choose another id"
            )
        raise ConversationExists(f"a conversation with the id {key.id!r} exists already; choose another id")
    return Conversation(
        id=key.id,
        owner=key.owner,
        name=new.name,
        title=new.title if new.title is not None else new.made_title,
        settings=dict(new.settings),
        metadata=dict(new.metadata),
        window=dict(new.window),
        pins=(),
        forked_from=None,
        forked_at=None,
        length=path.head.position,
        head_seq=path.head.seq,
        model=new.settings.get("model"),
        created_at=now,
        updated_at=path.updated_at,
        has_made_title=new.title is None and new.made_title is not None,
    )


def _find_named(connection: Connection, owner: str, name: str) -> str | None:
    found: str | None = connection.scalar(_NAMED, {"owner": owner, "name": name})
    return found


def _make_name_taken(name: str) -> ConversationExists:
    return ConversationExists(f"the name {name!r} is taken; choose another, or rename the conversation that has it")


def insert_fork(connection: Connection, origin: ConversationKey, new: NewFork, now: datetime) -> Conversation:
    """Insert a conversation that shares the past of another one, and return it: one row, no copying.

    Raises:
        ConversationExists: the new id or the name is taken.
    """
    given = {
        "id": new.lineage.key.id,
        "name": new.name,
        "head_seq": new.head.seq,
        "length": new.head.position,
        "next_seq": new.head.seq + 1,
        "next_turn": new.next_turn,
        "lineage": write_lineage(new.lineage),
        "inherited_model": to_column(new.inherited_model or ""),  # not NULL, which means that it is not known
        "pins": encode_pins(new.pins),
        "summary_turn": new.summary_turn,
        "created_at": now,
        "updated_at": now,
    }
    values = {"key_owner": origin.owner, "key_id": origin.id, **{f"new_{name}": given[name] for name in _GIVEN_TO_FORK}}
    titles = {name: title for name in _TITLES if not isinstance(title := getattr(new, name), Unchanged)}
    values |= {f"new_{name}": to_column(title) for name, title in titles.items()}
    statement = _fork_statement(connection.dialect.name, tuple(titles))
    inserted = connection.execute(statement, values).one_or_none()
    if inserted is None:
        raise ConversationExists(f"the id {new.lineage.key.id!r} or the name {new.name!r} is taken; choose another")
    return decode_conversation(inserted)


def take_turn_number(connection: Connection, key: ConversationKey) -> TurnNumber:
    """Take a number for a turn that does not hold the conversation, and return it.

    Raises:
        ConversationNotFound: the owner has no such conversation.
    """
    after = connection.scalar(_TAKE_TURN_NUMBER, {"key_owner": key.owner, "key_id": key.id})
    if after is None:
        raise conversation_not_found(connection, key)
    return TurnNumber(int(after) - 1)


def lock_row(connection: Connection, key: ConversationKey) -> None:
    """Keep others from changing the conversation's row until the transaction ends.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        ConversationBusy: another transaction holds the row.
    """
    values = {"owner": key.owner, "id": key.id}
    if is_sqlite(connection) or connection.execute(_LOCK, values).first() is not None:
        return  # on SQLite a writing transaction is alone
    get_conversation(connection, key)
    raise conversation_locked(key)


def hold_origin(connection: Connection, key: ConversationKey) -> None:
    """Keep others from purging or redacting a conversation until the transaction ends; nothing else waits for it.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        ConversationBusy: another transaction purges it, or one that it was forked from.
    """
    if is_sqlite(connection):
        return  # a writing transaction is alone
    if connection.execute(_HOLD, {"owner": key.owner, "id": key.id}).first() is None:
        get_conversation(connection, key)
        raise conversation_locked(key)


def change_conversation(
    connection: Connection, key: ConversationKey, change: ConversationChange, now: datetime
) -> Conversation:
    """Change a conversation's name, title, metadata, parameters or window; return it.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        ConversationExists: the name is taken.
    """
    lock_row(connection, key)
    before = get_conversation(connection, key)
    values: dict[str, Any] = {
        "updated_at": now,
        "settings": to_json(merge_parameters(before.settings, change.parameters)),
    }
    if change.window:
        merged = merge_window_options(before.window, change.window)
        values["window"] = to_json(merged) if merged else None
    name = change.name
    if not isinstance(name, Unchanged):
        values["name"] = name
        # Checked first: on PostgreSQL an error of the constraint would end the transaction, perhaps the caller's own.
        if name is not None and _find_named(connection, key.owner, name) not in (None, key.id):
            raise _make_name_taken(name)
    if not isinstance(change.title, Unchanged):
        values["title"] = to_column(change.title)
    metadata = _change_metadata(before.metadata, change)
    if metadata is not None:
        values["metadata"] = to_json(metadata)
    try:
        connection.plain.execute(update(table).where(table.c.owner == key.owner, table.c.id == key.id).values(values))
    except IntegrityError:
        raise _make_name_taken(str(name)) from None
    after = get_conversation(connection, key)
    replace_title(connection, key, after.created_at, _get_names(before), _get_names(after))
    return after


def _change_metadata(before: Mapping[str, Any], change: ConversationChange) -> dict[str, Any] | None:
    """Return the metadata after a change; None: it stays."""
    if isinstance(change.metadata, Unchanged) and isinstance(change.metadata_texts, Unchanged):
        return None
    changed = dict(before if isinstance(change.metadata, Unchanged) else change.metadata or {})
    if isinstance(change.metadata_texts, Unchanged):
        return changed
    others = {name: value for name, value in changed.items() if not isinstance(value, str)}
    return {**others, **(change.metadata_texts or {})}


def _get_names(conversation: Conversation) -> tuple[str | None, str | None]:
    """Return what the search index has of a conversation: the title that it was given, and its name."""
    return conversation.given_title, conversation.name


def set_pins(connection: Connection, key: ConversationKey, pins: Sequence[Pin]) -> None:
    """Replace the pins of a conversation."""
    connection.execute(_SET_PINS, {"key_owner": key.owner, "key_id": key.id, "pinned": encode_pins(pins)})


def delete_conversation(connection: Connection, key: ConversationKey, now: datetime) -> None:
    """Mark a conversation as deleted.

    Its rows stay, because its forks and `restore_conversation` need them.
    """
    connection.execute(_DELETE, {"key_owner": key.owner, "key_id": key.id, "now": now})


def restore_conversation(connection: Connection, key: ConversationKey) -> None:
    """Restore a deleted conversation.

    Raises:
        ConversationNotFound: the owner has no deleted conversation with this id.
        ConversationExists: another conversation now has the name of the deleted one.
    """
    values = {"key_owner": key.owner, "key_id": key.id}
    taken = ConversationExists(
        f"conversation {key.id!r} cannot be restored: another one has its name now; rename that one first"
    )
    # Checked first: on PostgreSQL an error of the constraint would end the transaction, perhaps the caller's own.
    if connection.execute(_NAME_IS_TAKEN, values).first() is not None:
        raise taken
    try:
        restored = connection.execute(_RESTORE, values)
    except IntegrityError:
        raise taken from None
    if not restored.rowcount:
        raise ConversationNotFound(f"no deleted conversation {key.id!r}")
