"""Deltas: what has come of replies that are still streaming in."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from convstore.db.tables import deltas as table
from convstore.errors import DamagedRow
from convstore.messages.codec import to_json

_OF_TURN = (
    table.c.owner == bindparam("owner"),
    table.c.conversation_id == bindparam("conversation_id"),
    table.c.turn_seq == bindparam("turn_seq"),
)
_READ = (
    select(table.c.number, table.c.delta).where(*_OF_TURN, table.c.number > bindparam("after")).order_by(table.c.number)
)
_DELETE = delete(table).where(*_OF_TURN)


@cache
def _insert_statement(dialect: str) -> Any:
    # It may come twice: after a commit whose outcome was lost with the connection.
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


def add(
    connection: Connection, owner: str, conversation_id: str, turn: int, number: int, delta: dict[str, Any]
) -> None:
    """Put on record what came of a reply since delta `number` - 1."""
    connection.execute(
        _insert_statement(connection.dialect.name),
        {
            "owner": owner,
            "conversation_id": conversation_id,
            "turn_seq": turn,
            "number": number,
            "delta": to_json(delta),
        },
    )


def after(
    connection: Connection, owner: str, conversation_id: str, turn: int, number: int = 0
) -> list[tuple[int, dict[str, Any]]]:
    """Return the deltas of a turn with greater numbers than `number`, in order.

    Raises:
        DamagedRow: one cannot be decoded.
    """
    key = {"owner": owner, "conversation_id": conversation_id, "turn_seq": turn, "after": number}
    found = []
    for row in connection.execute(_READ, key):
        try:
            found.append((row.number, json.loads(row.delta)))
        except ValueError as error:
            raise DamagedRow(
                f"conversation {conversation_id}: delta {row.number} of turn {turn} cannot be decoded"
            ) from error
    return found


def remove(connection: Connection, owner: str, conversation_id: str, turn: int) -> None:
    """Remove the deltas of a turn that is over: its reply has become a message."""
    connection.execute(_DELETE, {"owner": owner, "conversation_id": conversation_id, "turn_seq": turn})
