"""Completions that were recorded for clients of the service: found by the id that the client got, listed, hidden.

Of several with one id, the newest counts: a scripted model, or a proxy, may give the same id twice.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, bindparam, or_, select, tuple_, update

from convstore.db.connection import Connection
from convstore.db.dialect import hide_from_planner
from convstore.db.fork_sharing import Lineage
from convstore.db.message_rows import COLUMNS, decode_rows_with_parents, select_parent_digest
from convstore.db.row_errors import DECODING_ERRORS, damaged_row
from convstore.db.tables import EPOCH, UtcDateTime, conversations, messages, turns
from convstore.db.tables import client_requests as table
from convstore.messages.message import Message
from convstore.messages.storable_text import from_column, to_column, to_json
from convstore.values.identifiers import Seq
from convstore.values.results import Turn, TurnStatus
from convstore.values.stored_completion import CompletionPlace

_ORDER = (table.c.created_at, table.c.conversation_id, table.c.turn_seq)
_COMPLETIONS = (
    select(
        table.c.conversation_id,
        table.c.turn_seq,
        table.c.asked_seq,
        table.c.response_id,
        table.c.metadata,
        table.c.created_at,
    )
    .join(
        conversations,
        (conversations.c.owner == bindparam("owner")) & (conversations.c.id == table.c.conversation_id),
    )
    .join(
        turns,
        (turns.c.owner == bindparam("owner"))
        & (turns.c.conversation_id == table.c.conversation_id)
        & (turns.c.seq == table.c.turn_seq),
    )
    .where(
        table.c.owner == bindparam("owner"),
        table.c.response_id.is_not(None),
        table.c.hidden_at.is_(None),
        conversations.c.deleted_at.is_(None),
        turns.c.status == TurnStatus.COMPLETED.value,
    )
)
# For the order of the columns themselves, SQLite would read all completions of the owner.
_NEWEST = (
    hide_from_planner(table.c.created_at, EPOCH).desc(),
    table.c.conversation_id.desc(),
    table.c.turn_seq.desc(),
)
_BY_ID = _COMPLETIONS.where(table.c.response_id == bindparam("id")).order_by(*_NEWEST).limit(1)
_AFTER = tuple_(
    bindparam("after_time", type_=UtcDateTime()), bindparam("after_id"), bindparam("after_turn", type_=BigInteger)
)
_SET_METADATA = (
    update(table)
    .where(
        table.c.owner == bindparam("key_owner"),
        table.c.conversation_id == bindparam("key_id"),
        table.c.turn_seq == bindparam("key_turn"),
    )
    .values(metadata=bindparam("new_metadata"))
)
_HIDE = (
    update(table)
    .where(
        table.c.owner == bindparam("key_owner"),
        table.c.response_id == bindparam("key_response"),
        table.c.hidden_at.is_(None),
    )
    .values(hidden_at=bindparam("now", type_=UtcDateTime()))
)
_REPLIES = (
    select(*COLUMNS, select_parent_digest(messages))
    .where(
        messages.c.owner == bindparam("owner"),
        messages.c.conversation_id == bindparam("conversation_id"),
        messages.c.seq >= bindparam("first"),
        messages.c.seq <= bindparam("last"),
        messages.c.turn_seq == bindparam("turn"),
    )
    .order_by(messages.c.seq)
)


@cache
def _page_statement(*, is_after: bool, is_descending: bool, of_model: bool) -> Any:
    statement = _COMPLETIONS
    if is_after:
        order = tuple_(*_ORDER)
        statement = statement.where(order < _AFTER if is_descending else order > _AFTER)
    if of_model:
        model: Any = bindparam("model")
        statement = statement.where(or_(turns.c.model == model, turns.c.requested_model == model))
    order_by = [one.desc() for one in _ORDER] if is_descending else _ORDER
    return statement.order_by(*order_by).limit(bindparam("most"))


def find_completion(connection: Connection, owner: str, id: str) -> CompletionPlace | None:
    """Return the newest completion with an id, or None."""
    rows = connection.execute(_BY_ID, {"owner": owner, "id": to_column(id)}).all()
    return _decode(rows[0]) if rows else None


def list_completions(
    connection: Connection,
    owner: str,
    most: int,
    *,
    after: CompletionPlace | None,
    is_descending: bool,
    model: str | None,
) -> list[CompletionPlace]:
    """Return completions in the order of their requests.

    Args:
        after: the completion before the first one; None: from the beginning.
        model: the model that answered, or that was asked; None: any.
    """
    values: dict[str, Any] = {"owner": owner, "most": most}
    if after is not None:
        values |= {"after_time": after.created_at, "after_id": after.conversation_id, "after_turn": after.turn}
    if model is not None:
        values["model"] = to_column(model)
    statement = _page_statement(is_after=after is not None, is_descending=is_descending, of_model=model is not None)
    return [_decode(row) for row in connection.execute(statement, values).all()]


def set_metadata(connection: Connection, owner: str, place: CompletionPlace, metadata: dict[str, Any]) -> None:
    """Replace what the client says about a completion."""
    values = {"key_owner": owner, "key_id": place.conversation_id, "key_turn": place.turn}
    connection.execute(_SET_METADATA, {**values, "new_metadata": to_json(metadata) if metadata else None})


def hide_completions(connection: Connection, owner: str, id: str, now: datetime) -> None:
    """Hide all completions with an id."""
    connection.execute(_HIDE, {"key_owner": owner, "key_response": to_column(id), "now": now})


def read_replies(connection: Connection, lineage: Lineage, turn: Turn, most: int) -> list[Message]:
    """Return the messages of all choices of a turn.

    Args:
        most: the largest number of choices.
    """
    if turn.message is None or turn.output_seq is None or most <= 1:
        return [turn.message] if turn.message is not None else []
    values = {"owner": lineage.key.owner, "conversation_id": lineage.key.id, "turn": turn.seq}
    last = Seq(turn.output_seq + most - 1)
    rows = connection.execute(_REPLIES, {**values, "first": turn.output_seq, "last": last}).all()
    return [record.message for record in decode_rows_with_parents(connection, rows, lineage)]


def _decode(row: Any) -> CompletionPlace:
    try:
        metadata = json.loads(row.metadata) if row.metadata is not None else {}
        if not isinstance(metadata, dict):
            raise TypeError("not a JSON object")
    except DECODING_ERRORS as error:
        text = f"the metadata of the completion of turn {row.turn_seq} cannot be decoded ({error})"
        raise damaged_row(row.conversation_id, text) from error
    return CompletionPlace(
        id=from_column(row.response_id) or "",
        conversation_id=row.conversation_id,
        turn=row.turn_seq,
        asked_seq=row.asked_seq,
        metadata=metadata,
        created_at=row.created_at,
    )
