"""Rows of conversations: insert, find, list, change, fork, delete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, func, literal, or_, select, true, tuple_, update
from sqlalchemy.exc import IntegrityError

from convstore.db.dialect import NO_LIMIT, insert_or_ignore, is_sqlite
from convstore.db.fork_sharing import Origin, read_lineage, write_lineage
from convstore.db.head_rows import Head, Pin, encode_pins
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import (
    DECODING_ERRORS,
    conversation_locked,
    conversation_not_found,
    damaged_row,
    read_json_object,
)
from convstore.db.tables import UtcDateTime, turns
from convstore.db.tables import conversations as table
from convstore.errors import ConversationExists, ConversationNotFound, DamagedRow
from convstore.messages.message import Message
from convstore.messages.storable_text import from_column, to_column, to_json
from convstore.values.completion_parameters import merge_parameters
from convstore.values.identifiers import ConversationKey, Seq, TurnNumber
from convstore.values.results import UNCHANGED, Conversation, Given, Unchanged
from convstore.values.window_options import merge_window_options

# The parameters of the latest request. The turns' primary key ends with the turn number, so the database finds the
# turn without reading the others.
LATEST_REQUEST = (
    select(turns.c.request)
    .where(turns.c.owner == bindparam("owner"), turns.c.conversation_id == table.c.id, turns.c.window.is_not(None))
    .order_by(turns.c.seq.desc())
    .limit(1)
    .correlate(table)
    .scalar_subquery()
    .label("latest_request")
)
_COLUMNS: tuple[ColumnElement[Any], ...] = (
    table.c.owner,
    table.c.id,
    table.c.name,
    table.c.title,
    table.c.settings,
    table.c.metadata,
    table.c.window,
    table.c.pins,
    table.c.lineage,
    table.c.length,
    table.c.head_seq,
    table.c.created_at,
    table.c.updated_at,
    LATEST_REQUEST,
)
_check_types = RowCheck(_COLUMNS)
_LIVING = (table.c.owner == bindparam("owner"), table.c.deleted_at.is_(None))
_BY_ID = select(*_COLUMNS).where(*_LIVING, table.c.id == bindparam("id"))
_BY_REFERENCE = select(*_COLUMNS).where(
    *_LIVING, or_(table.c.id == bindparam("reference"), table.c.name == bindparam("reference"))
)
# A range of the key instead of LIKE: on SQLite LIKE uses no index, and `_` and `%` would match other characters.
_BY_PREFIX = (
    select(*_COLUMNS)
    .where(*_LIVING, table.c.id >= bindparam("low"), table.c.id < bindparam("high"))
    .order_by(table.c.id)
    .limit(bindparam("most"))
)
_MAX_SEARCHED_ORIGINS = 4  # for the model that a fork shows: its cost must not grow with the number of forks
_NEWEST_FIRST = (table.c.updated_at.desc(), table.c.id.desc())
_IS_BEFORE = tuple_(table.c.updated_at, table.c.id) < tuple_(
    bindparam("updated_at", type_=UtcDateTime()), bindparam("before_id")
)
_ORIGINS_REQUEST = (
    select(turns.c.request)
    .where(
        turns.c.owner == bindparam("owner"),
        turns.c.conversation_id == bindparam("origin"),
        turns.c.seq <= bindparam("up_to_turn"),
        turns.c.window.is_not(None),
    )
    .order_by(turns.c.seq.desc())
    .limit(1)
)
_NAMED = select(table.c.id).where(*_LIVING, table.c.name == bindparam("name"))
_DIGEST = select(table.c.creation_digest).where(*_LIVING, table.c.id == bindparam("id"))
_LOCK = select(table.c.id).where(*_LIVING, table.c.id == bindparam("id")).with_for_update(skip_locked=True)

_LIMIT_INSERT_WAIT = select(func.set_config("lock_timeout", "3s", true()))

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
    digest: bytes
    """Digest of all the other fields. A second conversation with the same id and digest is the first one again."""


@dataclass(frozen=True, slots=True)
class NewFork:
    """The values of a new fork; it copies all others from the origin."""

    key: ConversationKey
    name: str | None
    title: Given[str]
    head: Head
    origins: tuple[Origin, ...]
    next_turn: TurnNumber
    pins: Sequence[Pin]
    """The pins in the shared past. Later pins are left out, because the fork gives their numbers to other messages."""
    summary_turn: TurnNumber | None


@dataclass(frozen=True, slots=True)
class ConversationChange:
    """What to change about a conversation; UNCHANGED leaves a value, None removes it."""

    name: Given[str] = UNCHANGED
    title: Given[str] = UNCHANGED
    metadata: Given[Mapping[str, Any]] = UNCHANGED
    """Replaces all metadata."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Checked completion parameters, merged into the sticky ones."""
    window: Mapping[str, Any] = field(default_factory=dict)
    """Checked window options, merged into the sticky ones."""


@cache
def _insert_statement(dialect: str) -> Any:
    return insert_or_ignore(table, dialect)


def limit_insert_wait(connection: Connection) -> None:
    """Limit how long an INSERT waits for a transaction that inserts the same id or name, to three seconds.

    It must not run in a caller's own transaction. On SQLite nothing is done: its busy timeout is the limit.
    """
    if not is_sqlite(connection):
        connection.execute(_LIMIT_INSERT_WAIT)


def insert_conversation(connection: Connection, new: NewConversation, now: datetime) -> Conversation | None:
    """Insert a conversation without its messages, and return it.

    Return None if the same conversation exists already.

    Raises:
        ConversationExists: the id is taken by a conversation with other content, or the name is taken.
    """
    key, length = new.key, len(new.first)
    created = connection.execute(
        _insert_statement(connection.dialect.name).returning(table.c.id),
        {
            "owner": key.owner,
            "id": key.id,
            "name": new.name,
            "title": to_column(new.title),
            "settings": to_json(new.settings),
            "metadata": to_json(new.metadata),
            "window": to_json(new.window) if new.window else None,
            "head_seq": length,
            "length": length,
            "next_seq": length + 1,
            "next_turn": 1,
            "creation_digest": new.digest,
            "created_at": now,
            "updated_at": now,
        },
    ).one_or_none()
    if created is None:
        if connection.scalar(_DIGEST, {"owner": key.owner, "id": key.id}) == new.digest:
            return None
        if new.name is not None and _find_named(connection, key.owner, new.name) is not None:
            raise _make_name_taken(new.name)
        raise ConversationExists(f"a conversation with the id {key.id!r} exists already; choose another id")
    return Conversation(
        id=key.id,
        owner=key.owner,
        name=new.name,
        title=new.title,
        settings=dict(new.settings),
        metadata=dict(new.metadata),
        window=dict(new.window),
        pins=(),
        forked_from=None,
        forked_at=None,
        length=length,
        head_seq=Seq(length),
        model=new.settings.get("model"),
        created_at=now,
        updated_at=now,
    )


def _find_named(connection: Connection, owner: str, name: str) -> str | None:
    found: str | None = connection.scalar(_NAMED, {"owner": owner, "name": name})
    return found


def _make_name_taken(name: str) -> ConversationExists:
    return ConversationExists(f"the name {name!r} is taken; choose another, or rename the conversation that has it")


def insert_fork(connection: Connection, origin: ConversationKey, new: NewFork, now: datetime) -> None:
    """Insert a conversation that shares the past of another one: one row, no copying.

    Raises:
        ConversationExists: the new id or the name is taken.
    """
    keeps_title = isinstance(new.title, Unchanged)
    title = table.c.title if keeps_title else literal(to_column(_or_none(new.title)), table.c.title.type)
    copied = {
        "owner": table.c.owner,  # taken from the origin, so that a distributed PostgreSQL knows it is the same server
        "settings": table.c.settings,
        "metadata": table.c.metadata,
        "window": table.c.window,
        "title": title,
    }
    given = {
        "id": new.key.id,
        "name": new.name,
        "head_seq": new.head.seq,
        "length": new.head.position,
        "next_seq": new.head.seq + 1,
        "next_turn": new.next_turn,
        "lineage": write_lineage(new.origins),
        "pins": encode_pins(new.pins),
        "summary_turn": new.summary_turn,
        "created_at": now,
        "updated_at": now,
    }
    row = select(
        *(literal(value, table.c[name].type).label(name) for name, value in given.items()),
        *(value.label(name) for name, value in copied.items()),
    ).where(table.c.owner == origin.owner, table.c.id == origin.id)
    statement = _insert_statement(connection.dialect.name).from_select([*given, *copied], row).returning(table.c.id)
    if connection.execute(statement).one_or_none() is None:
        raise ConversationExists(f"the id {new.key.id!r} or the name {new.name!r} is taken; choose another")


def _or_none(given: Given[str]) -> str | None:
    return None if isinstance(given, Unchanged) else given


def get_conversation(connection: Connection, key: ConversationKey) -> Conversation:
    """Return the conversation with exactly this id.

    Raises:
        ConversationNotFound: the owner has no such conversation.
    """
    row = connection.execute(_BY_ID, {"owner": key.owner, "id": key.id}).one_or_none()
    if row is None:
        raise conversation_not_found(key)
    return _check_and_decode(connection, row)


def find_conversations(connection: Connection, owner: str, reference: str, *, most: int = 10) -> Sequence[Conversation]:
    """Return the conversations that a reference can mean.

    It means the conversation with this id; else the one with this name; else each one with an id that begins with it.
    The id is first, so that nobody can hide a conversation by giving another one its id as a name.
    """
    named = connection.execute(_BY_REFERENCE, {"owner": owner, "reference": reference})
    exact = [_check_and_decode(connection, row) for row in named]
    for conversation in exact:
        if conversation.id == reference:
            return [conversation]
    if exact:
        return exact
    rows = connection.execute(
        _BY_PREFIX,
        {"owner": owner, "low": reference, "high": reference + "\U0010ffff", "most": most},
    )
    return [_check_and_decode(connection, row) for row in rows]


@cache
def _list_statement(*, deleted: bool, is_next_page: bool) -> Any:
    chosen = table.c.deleted_at.is_not(None) if deleted else table.c.deleted_at.is_(None)
    statement = select(*_COLUMNS).where(table.c.owner == bindparam("owner"), chosen)
    if is_next_page:
        statement = statement.where(_IS_BEFORE)
    return statement.order_by(*_NEWEST_FIRST).limit(bindparam("most"))


def list_conversations(
    connection: Connection,
    owner: str,
    limit: int | None,
    before: Conversation | None = None,
    *,
    deleted: bool = False,
) -> tuple[list[Conversation], list[DamagedRow]]:
    """Return conversations, latest activity first, and the errors of those with a damaged row.

    Args:
        before: return only those that come after this one in that order; None: begin at the top.
        deleted: return the deleted conversations instead of the others.
    """
    values = {"owner": owner, "most": limit if limit is not None else NO_LIMIT}
    if before is not None:
        values |= {"updated_at": before.updated_at, "before_id": before.id}
    rows = connection.execute(_list_statement(deleted=deleted, is_next_page=before is not None), values).all()
    found, damaged = [], []
    for row in rows:
        try:
            found.append(_check_and_decode(connection, row))
        except DamagedRow as error:
            damaged.append(error)
    return found, damaged


def take_turn_number(connection: Connection, key: ConversationKey) -> TurnNumber:
    """Take a number for a turn that does not hold the conversation, and return it.

    Raises:
        ConversationNotFound: the owner has no such conversation.
    """
    after = connection.scalar(_TAKE_TURN_NUMBER, {"key_owner": key.owner, "key_id": key.id})
    if after is None:
        raise conversation_not_found(key)
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
    if not isinstance(change.metadata, Unchanged):
        values["metadata"] = to_json(dict(change.metadata or {}))
    try:
        connection.execute(update(table).where(table.c.owner == key.owner, table.c.id == key.id).values(values))
    except IntegrityError:
        raise _make_name_taken(str(name)) from None
    return get_conversation(connection, key)


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


def _check_and_decode(connection: Connection, row: Row[Any]) -> Conversation:
    _check_types([row], row.id)
    conversation = decode_conversation(row)
    if conversation.model is not None or conversation.forked_from is None:
        return conversation
    return replace(conversation, model=_read_origins_model(connection, row))


def decode_conversation(row: Row[Any]) -> Conversation:
    """Return a row as a conversation.

    Raises:
        DamagedRow: the row cannot be decoded.
    """
    try:
        settings = json.loads(row.settings)
        metadata = json.loads(row.metadata)
        title = from_column(row.title)
        requested = json.loads(row.latest_request) if row.latest_request is not None else {}
        window = json.loads(row.window) if row.window is not None else {}
        pins = tuple(Seq(int(seq)) for seq, _ in json.loads(row.pins or "[]"))
        origins = read_lineage(ConversationKey(row.owner, row.id), row.lineage).origins
        if not all(isinstance(value, dict) for value in (settings, metadata, requested, window)):
            raise TypeError("not a JSON object")
    except DECODING_ERRORS as error:
        raise damaged_row(row.id, f"its settings, metadata or title cannot be decoded ({error})") from error
    return Conversation(
        id=row.id,
        owner=row.owner,
        name=row.name,
        title=title,
        settings=settings,
        metadata=metadata,
        window=window,
        pins=pins,
        forked_from=origins[0].conversation_id if origins else None,
        forked_at=origins[0].up_to_seq if origins else None,
        length=row.length,
        head_seq=row.head_seq,
        model=settings.get("model") or requested.get("model"),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _read_origins_model(connection: Connection, row: Row[Any]) -> str | None:
    """Return the model of the latest request in the past that a fork shares, or None."""
    lineage = read_lineage(ConversationKey(row.owner, row.id), row.lineage)
    for origin in lineage.origins[:_MAX_SEARCHED_ORIGINS]:
        values = {"owner": row.owner, "origin": origin.conversation_id, "up_to_turn": origin.up_to_turn}
        request = connection.scalar(_ORIGINS_REQUEST, values)
        if request is not None:
            model = read_json_object(request, origin.conversation_id, "turn's parameters").get("model")
            return str(model) if model is not None else None
    return None
