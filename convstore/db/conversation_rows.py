"""Conversations: create, find, list, change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from convstore.db import message_rows
from convstore.db.engine import EVERYTHING
from convstore.db.fork_sharing import Lineage, read_lineage
from convstore.db.tables import UtcDateTime, turns
from convstore.db.tables import conversations as table
from convstore.errors import ConversationExists, ConversationNotFound, DamagedRow
from convstore.messages.codec import Message, from_column, to_column, to_json
from convstore.messages.token_estimate import Counter, estimate
from convstore.values.completion_parameters import merge
from convstore.values.results import Conversation, Given, Unchanged

# The model that the latest turn asked for: one look at the end of the turns' primary key for each conversation.
_LATEST_REQUEST = (
    select(turns.c.request)
    .where(turns.c.owner == table.c.owner, turns.c.conversation_id == table.c.id, turns.c.window.is_not(None))
    .order_by(turns.c.seq.desc())
    .limit(1)
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
    _LATEST_REQUEST,
)
_LIVING = (table.c.owner == bindparam("owner"), table.c.deleted_at.is_(None))
_BY_ID = select(*_COLUMNS).where(*_LIVING, table.c.id == bindparam("id"))
_BY_REFERENCE = select(*_COLUMNS).where(
    *_LIVING, or_(table.c.id == bindparam("reference"), table.c.name == bindparam("reference"))
)
# A half-open range of the key, because LIKE uses no index on SQLite and means something in `_` and `%`.
_BY_PREFIX = (
    select(*_COLUMNS)
    .where(*_LIVING, table.c.id >= bindparam("low"), table.c.id < bindparam("high"))
    .order_by(table.c.id)
    .limit(bindparam("most"))
)
_NEWEST_FIRST = (table.c.updated_at.desc(), table.c.id.desc())
_LIST = select(*_COLUMNS).where(*_LIVING).order_by(*_NEWEST_FIRST).limit(bindparam("most"))
_LIST_BEFORE = _LIST.where(
    tuple_(table.c.updated_at, table.c.id)
    < tuple_(bindparam("updated_at", type_=UtcDateTime()), bindparam("before_id"))
)
_NAMED = select(table.c.id).where(*_LIVING, table.c.name == bindparam("name"))
_HEAD = select(table.c.head_seq, table.c.lineage).where(*_LIVING, table.c.id == bindparam("id"))
_DIGEST = select(table.c.creation_digest).where(*_LIVING, table.c.id == bindparam("id"))
_LOCK = select(table.c.id).where(*_LIVING, table.c.id == bindparam("id")).with_for_update()


@cache
def conflict_free_insert(dialect: str) -> Any:
    """Return the beginning of a statement that inserts a conversation, or nothing where its id or name is taken."""
    # Instead of an error, which on PostgreSQL would end the transaction: it may be the caller's own.
    from sqlalchemy.dialects import postgresql, sqlite

    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


def create(
    connection: Connection,
    *,
    owner: str,
    id: str,
    name: str | None,
    title: str | None,
    settings: Mapping[str, Any],
    metadata: Mapping[str, Any],
    window: Mapping[str, Any],
    first: Sequence[Message],
    digest: bytes,
    now: datetime,
    count: Counter = estimate,
) -> Conversation:
    """Insert a conversation that begins with the messages `first`.

    Args:
        digest: of all that it is created with: doing so again under the same id returns what is there.

    Raises:
        ConversationExists: the id is taken by a conversation of other content, or the name is taken.
    """
    length = len(first)
    created = connection.execute(
        conflict_free_insert(connection.dialect.name).returning(table.c.id),
        {
            "owner": owner,
            "id": id,
            "name": name,
            "title": to_column(title),
            "settings": to_json(dict(settings)),
            "metadata": to_json(dict(metadata)),
            "window": to_json(dict(window)) if window else None,
            "head_seq": length,
            "length": length,
            "next_seq": length + 1,
            "next_turn": 1,
            "creation_digest": digest,
            "created_at": now,
            "updated_at": now,
        },
    ).one_or_none()
    if created is None:
        if connection.scalar(_DIGEST, {"owner": owner, "id": id}) == digest:
            return get(connection, owner, id)
        if name is not None and connection.execute(_NAMED, {"owner": owner, "name": name}).one_or_none() is not None:
            raise _name_taken(name)
        raise ConversationExists(f"there is a conversation with the id {id!r} already")
    message_rows.add(connection, Lineage(owner, id), first, first_seq=1, after=None, turn=None, now=now, count=count)
    return Conversation(
        id=id,
        owner=owner,
        name=name,
        title=title,
        settings=dict(settings),
        metadata=dict(metadata),
        window=dict(window),
        pins=(),
        forked_from=None,
        forked_at=None,
        length=length,
        head_seq=length,
        model=settings.get("model"),
        created_at=now,
        updated_at=now,
    )


def _name_taken(name: str) -> ConversationExists:
    return ConversationExists(f"the name {name!r} is taken; choose another, or rename that one with `convstore set`")


def _not_found(id: str) -> ConversationNotFound:
    return ConversationNotFound(f"no conversation {id!r}; see `convstore list`")


def head(connection: Connection, owner: str, id: str) -> tuple[int, Lineage]:
    """Return the `seq` of the conversation's last message (0 where it has none), and where its past is kept.

    Raises:
        ConversationNotFound: there is none with this id.
    """
    found = connection.execute(_HEAD, {"owner": owner, "id": id}).one_or_none()
    if found is None:
        raise _not_found(id)
    return found.head_seq, read_lineage(owner, id, found.lineage)


_TAKE_TURN = (
    update(table)
    .where(table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"), table.c.deleted_at.is_(None))
    .values(next_turn=table.c.next_turn + 1)
    .returning(table.c.next_turn)
)


def take_turn(connection: Connection, owner: str, id: str) -> int:
    """Take the number of a turn that does not hold the conversation, and return it.

    Raises:
        ConversationNotFound: there is none with this id.
    """
    after = connection.scalar(_TAKE_TURN, {"key_owner": owner, "key_id": id})
    if after is None:
        raise _not_found(id)
    return int(after) - 1


def get(connection: Connection, owner: str, id: str) -> Conversation:
    """Return the conversation with exactly this id.

    Raises:
        ConversationNotFound: there is none.
    """
    row = connection.execute(_BY_ID, {"owner": owner, "id": id}).one_or_none()
    if row is None:
        raise _not_found(id)
    return _conversation(row)


def find(connection: Connection, owner: str, reference: str, *, most: int = 10) -> Sequence[Conversation]:
    """Return the conversations that a reference can mean: one whose id it is, else one whose name, else by prefix.

    An id comes before a name, so that nobody can hijack an id by naming another conversation like it.
    """
    exact = [_conversation(row) for row in connection.execute(_BY_REFERENCE, {"owner": owner, "reference": reference})]
    for conversation in exact:
        if conversation.id == reference:
            return [conversation]
    if exact:
        return exact
    rows = connection.execute(
        _BY_PREFIX,
        {"owner": owner, "low": reference, "high": reference + "\U0010ffff", "most": most},
    )
    return [_conversation(row) for row in rows]


def latest(
    connection: Connection, owner: str, limit: int | None, before: Conversation | None = None
) -> list[Conversation]:
    """Return conversations, latest activity first: those after `before` in that order, or from the top."""
    most = limit if limit is not None else EVERYTHING
    if before is None:
        rows = connection.execute(_LIST, {"owner": owner, "most": most})
    else:
        rows = connection.execute(
            _LIST_BEFORE,
            {"owner": owner, "most": most, "updated_at": before.updated_at, "before_id": before.id},
        )
    return [_conversation(row) for row in rows]


def lock(connection: Connection, owner: str, id: str) -> None:
    """Let nobody else change the conversation's row before this transaction ends."""
    if connection.dialect.name != "sqlite":  # where a writing transaction is alone anyway
        connection.execute(_LOCK, {"owner": owner, "id": id})


def change(
    connection: Connection,
    owner: str,
    id: str,
    *,
    name: Given[str],
    title: Given[str],
    metadata: Given[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    window: Mapping[str, Any],
    now: datetime,
) -> Conversation:
    """Change what people may change about a conversation, and return it.

    Args:
        name, title: a new one; None takes it away; UNCHANGED leaves it.
        metadata: replaces all of it.
        parameters: checked ones, merged into the sticky ones (`params.merge`).
        window: checked options, merged into the sticky ones.

    Raises:
        ConversationNotFound: there is none with this id.
        ConversationExists: the name is taken.
    """
    lock(connection, owner, id)
    before = get(connection, owner, id)
    settings = merge(before.settings, parameters)
    values: dict[str, Any] = {"updated_at": now, "settings": to_json(settings)}
    if window:
        merged = {key: value for key, value in {**before.window, **window}.items() if value is not None}
        values["window"] = to_json(merged) if merged else None
    if not isinstance(name, Unchanged):
        values["name"] = name
        # Asked first: the constraint's error would end a transaction of PostgreSQL, which may be the caller's own.
        if connection.scalar(_NAMED, {"owner": owner, "name": name}) not in (None, id):
            raise _name_taken(str(name))
    if not isinstance(title, Unchanged):
        values["title"] = to_column(title)
    if not isinstance(metadata, Unchanged):
        values["metadata"] = to_json(dict(metadata or {}))
    try:
        connection.execute(update(table).where(table.c.owner == owner, table.c.id == id).values(values))
    except IntegrityError:
        raise _name_taken(str(name)) from None
    return get(connection, owner, id)


def _conversation(row: Row[Any]) -> Conversation:
    try:
        settings = json.loads(row.settings)
        metadata = json.loads(row.metadata)
        title = from_column(row.title)
        requested = json.loads(row.latest_request) if row.latest_request is not None else {}
        window = json.loads(row.window) if row.window is not None else {}
        pins = tuple(int(seq) for seq, _ in json.loads(row.pins or "[]"))
        origins = read_lineage(row.owner, row.id, row.lineage).origins
        if not all(isinstance(value, dict) for value in (settings, metadata, requested, window)):
            raise TypeError("not a JSON object")
    except (ValueError, TypeError) as error:
        raise DamagedRow(
            f"conversation {row.id}: its settings, metadata or title cannot be decoded ({error}); "
            f"restore this row from a backup"
        ) from error
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
