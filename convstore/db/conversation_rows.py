"""Read rows of conversations: get, find."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Row, Text, bindparam, null, select, union_all

from convstore.db.connection import Connection
from convstore.db.dialect import join_lines
from convstore.db.fork_sharing import read_lineage, read_nearest_origin
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import (
    DECODING_ERRORS,
    conversation_not_found,
    damaged_row,
    read_json_object,
)
from convstore.db.tables import conversations as table
from convstore.db.tables import tags, turns
from convstore.messages.storable_text import from_column
from convstore.values.identifiers import ConversationKey, Seq, compose_letters
from convstore.values.results import Conversation

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
TAGS = (
    select(join_lines(tags.c.tag))
    .where(tags.c.owner == bindparam("owner"), tags.c.conversation_id == table.c.id)
    .correlate(table)
    .scalar_subquery()
    .label("tags")
)
CONVERSATION_COLUMNS: tuple[ColumnElement[Any], ...] = (
    table.c.owner,
    table.c.id,
    table.c.name,
    table.c.title,
    table.c.made_title,
    table.c.settings,
    table.c.metadata,
    table.c.window,
    table.c.pins,
    table.c.lineage,
    table.c.inherited_model,
    table.c.length,
    table.c.head_seq,
    table.c.created_at,
    table.c.updated_at,
    table.c.archived_at,
    LATEST_REQUEST,
    TAGS,
)
"""What `decode_row` needs."""
NEW_COLUMNS = (*CONVERSATION_COLUMNS[:-2], null().label(LATEST_REQUEST.name), null().label(TAGS.name))
"""What `decode_conversation` needs of a row that was just inserted."""
_check_types = RowCheck(CONVERSATION_COLUMNS[:-1])  # the tags are made of several rows
_LIVING = (table.c.owner == bindparam("owner"), table.c.deleted_at.is_(None))
_BY_ID = select(*CONVERSATION_COLUMNS).where(*_LIVING, table.c.id == bindparam("id"))
# Two lookups. For `id = … OR name = …`, SQLite reads all conversations of the owner.
_named = table.alias("named")
_BY_REFERENCE = select(*CONVERSATION_COLUMNS).where(
    *_LIVING,
    table.c.id.in_(
        union_all(
            select(bindparam("reference", type_=Text)),
            select(_named.c.id).where(
                _named.c.owner == bindparam("owner"),
                _named.c.deleted_at.is_(None),
                _named.c.name == bindparam("name"),
            ),
        )
    ),
)
# A range of the key instead of LIKE: on SQLite LIKE uses no index, and `_` and `%` would match other characters.
_BY_PREFIX = (
    select(*CONVERSATION_COLUMNS)
    .where(*_LIVING, table.c.id >= bindparam("low"), table.c.id < bindparam("high"))
    .order_by(table.c.id)
    .limit(bindparam("most"))
)
_DELETED = select(*CONVERSATION_COLUMNS).where(table.c.owner == bindparam("owner"), table.c.deleted_at.is_not(None))
_LATEST_DELETED = _DELETED.order_by(table.c.deleted_at.desc(), table.c.id).limit(bindparam("most"))
_DELETED_BY_ID = _DELETED.where(table.c.id == bindparam("id"))
_DELETED_BY_NAME = _LATEST_DELETED.where(table.c.name == bindparam("name"))
_DELETED_BY_PREFIX = _LATEST_DELETED.where(table.c.id >= bindparam("low"), table.c.id < bindparam("high"))
_MAX_SEARCHED_ORIGINS = 4  # for the model that a fork shows: its cost must not grow with the number of forks
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


def get_conversation(connection: Connection, key: ConversationKey) -> Conversation:
    """Return the conversation with exactly this id.

    Raises:
        ConversationNotFound: the owner has no such conversation.
    """
    row = connection.execute(_BY_ID, {"owner": key.owner, "id": key.id}).one_or_none()
    if row is None:
        raise conversation_not_found(connection, key)
    return decode_row(connection, row)


def find_conversations(connection: Connection, owner: str, reference: str, *, most: int = 10) -> Sequence[Conversation]:
    """Return the conversations that a reference can mean.

    It means the conversation with this id; else the one with this name; else each one with an id that begins with it.
    The id is first, so that nobody can hide a conversation by giving another one its id as a name.
    """
    named = connection.execute(
        _BY_REFERENCE, {"owner": owner, "reference": reference, "name": compose_letters(reference)}
    )
    exact = [decode_row(connection, row) for row in named]
    for conversation in exact:
        if conversation.id == reference:
            return [conversation]
    if exact:
        return exact
    rows = connection.execute(
        _BY_PREFIX,
        {"owner": owner, "low": reference, "high": reference + "\U0010ffff", "most": most},
    )
    return [decode_row(connection, row) for row in rows]


def find_deleted_conversations(
    connection: Connection, owner: str, reference: str, *, most: int = 10
) -> Sequence[Conversation]:
    """Return the deleted conversations that a reference can mean, the latest deleted first.

    It means those that it would mean if they were not deleted, with all that have this name.
    """
    rows = (
        connection.execute(_DELETED_BY_ID, {"owner": owner, "id": reference}).all()
        or connection.execute(
            _DELETED_BY_NAME, {"owner": owner, "name": compose_letters(reference), "most": most}
        ).all()
        or connection.execute(
            _DELETED_BY_PREFIX, {"owner": owner, "low": reference, "high": reference + "\U0010ffff", "most": most}
        ).all()
    )
    return [decode_row(connection, row) for row in rows]


def decode_row(connection: Connection, row: Row[Any]) -> Conversation:
    """Return a row of `CONVERSATION_COLUMNS` as a conversation.

    Raises:
        DamagedRow: the row cannot be decoded.
    """
    _check_types([row], row.id)
    conversation = decode_conversation(row)
    if conversation.model is not None or conversation.forked_from is None or row.inherited_model is not None:
        return conversation
    # An earlier release wrote the row.
    return replace(conversation, model=_read_origins_model(connection, row))


def decode_conversation(row: Row[Any]) -> Conversation:
    """Return a row as a conversation.

    Raises:
        DamagedRow: the row cannot be decoded.
    """
    try:
        settings = json.loads(row.settings)
        metadata = json.loads(row.metadata)
        title, made = from_column(row.title), from_column(row.made_title)
        inherited = from_column(row.inherited_model)
        requested = json.loads(row.latest_request) if row.latest_request is not None else {}
        window = json.loads(row.window) if row.window is not None else {}
        pins = tuple(Seq(int(seq)) for seq, _ in json.loads(row.pins or "[]"))
        tagged = tuple(sorted(row.tags.split("\n"))) if row.tags else ()
        origin = read_nearest_origin(ConversationKey(row.owner, row.id), row.lineage)
        if not all(isinstance(value, dict) for value in (settings, metadata, requested, window)):
            raise TypeError("not a JSON object")
    except DECODING_ERRORS as error:
        raise damaged_row(row.id, f"its settings, metadata, title or tags cannot be decoded ({error})") from error
    return Conversation(
        id=row.id,
        owner=row.owner,
        name=row.name,
        title=title if title is not None else made,
        settings=settings,
        metadata=metadata,
        window=window,
        pins=pins,
        forked_from=origin.conversation_id if origin is not None else None,
        forked_at=origin.up_to_seq if origin is not None else None,
        length=row.length,
        head_seq=row.head_seq,
        model=settings.get("model") or requested.get("model") or inherited or None,
        created_at=row.created_at,
        updated_at=row.updated_at,
        has_made_title=title is None and made is not None,
        tags=tagged,
        archived_at=row.archived_at,
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
