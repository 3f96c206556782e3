"""Store and read deltas: the pieces of a reply that is still streaming."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete, select

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_ignore
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import DECODING_ERRORS, damaged_row
from convstore.db.tables import deltas as table
from convstore.messages.storable_text import to_json
from convstore.values.identifiers import ConversationKey, TurnNumber

_OF_TURN = (
    table.c.owner == bindparam("owner"),
    table.c.conversation_id == bindparam("conversation_id"),
    table.c.turn_seq == bindparam("turn_seq"),
)
_READ = (
    select(table.c.number, table.c.delta).where(*_OF_TURN, table.c.number > bindparam("after")).order_by(table.c.number)
)
_check_types = RowCheck(_READ.selected_columns)
_DELETE = delete(table).where(*_OF_TURN)


@cache
def _insert_statement(dialect: str) -> Any:
    return insert_or_ignore(table, dialect)  # the insert is repeated if the answer to its commit was lost


def _bind_turn(key: ConversationKey, turn: TurnNumber) -> dict[str, Any]:
    return {"owner": key.owner, "conversation_id": key.id, "turn_seq": turn}


def insert_delta(
    connection: Connection, key: ConversationKey, turn: TurnNumber, number: int, delta: dict[str, Any]
) -> None:
    """Store the piece of a reply that was received after delta `number` - 1."""
    values = {**_bind_turn(key, turn), "number": number, "delta": to_json(delta)}
    connection.execute(_insert_statement(connection.dialect.name), values)


def read_deltas(
    connection: Connection, key: ConversationKey, turn: TurnNumber, after: int = 0
) -> list[tuple[int, dict[str, Any]]]:
    """Return the deltas of a turn with numbers greater than `after`, in order.

    Raises:
        DamagedRow: a delta cannot be decoded.
    """
    found = []
    for row in connection.execute(_READ, {**_bind_turn(key, turn), "after": after}):
        _check_types([row], key.id, f"a delta of turn {turn}")
        try:
            found.append((row.number, json.loads(row.delta)))
        except DECODING_ERRORS as error:
            raise damaged_row(key.id, f"delta {row.number} of turn {turn} cannot be decoded") from error
    return found


def delete_deltas(connection: Connection, key: ConversationKey, turn: TurnNumber) -> None:
    """Delete the deltas of a turn that is over: its reply has become a message."""
    connection.execute(_DELETE, _bind_turn(key, turn))
