"""Make errors about rows: a conversation or a row that is missing, a damaged row."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import bindparam, select

from convstore.db.connection import Connection
from convstore.db.tables import conversations
from convstore.errors import ConversationBusy, ConversationDeleted, ConversationNotFound, DamagedRow
from convstore.values.identifiers import ConversationKey

_DELETED = select(conversations.c.id).where(
    conversations.c.owner == bindparam("owner"),
    conversations.c.id == bindparam("id"),
    conversations.c.deleted_at.is_not(None),
)
DECODING_ERRORS = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)
"""What decoding a damaged column can raise."""


def conversation_not_found(connection: Connection, key: ConversationKey) -> ConversationNotFound:
    """Return the error for a conversation that the owner does not have, or has deleted."""
    if connection.execute(_DELETED, {"owner": key.owner, "id": key.id}).first() is not None:
        return ConversationDeleted(f"conversation {key.id!r} is deleted; restore it to use it again")
    return ConversationNotFound(f"no conversation {key.id!r}")


def conversation_locked(key: ConversationKey) -> ConversationBusy:
    """Return the error for a conversation with a row that another transaction holds."""
    return ConversationBusy(f"conversation {key.id!r} is busy: another transaction is writing to it; try again")


def damaged_row(conversation_id: str, what: str) -> DamagedRow:
    """Return the error for a row that cannot be used as it is.

    Args:
        what: the row or column, and what is wrong with it.
    """
    return DamagedRow(f"conversation {conversation_id!r}: {what}; restore this row from a backup", what)


def missing_message(conversation_id: str, seq: int) -> DamagedRow:
    """Return the error for a message that does not exist, although other rows name it."""
    return damaged_row(conversation_id, f"message seq {seq} is missing")


def read_json_object(column: str | None, conversation_id: str, name: str) -> dict[str, Any]:
    """Return the JSON object in a column of a conversation; {} for NULL.

    Raises:
        DamagedRow: the column is not a JSON object.
    """
    try:
        value = json.loads(column) if column is not None else {}
    except DECODING_ERRORS:
        value = None
    if not isinstance(value, dict):
        raise damaged_row(conversation_id, f"its {name} are not a JSON object")
    return value
