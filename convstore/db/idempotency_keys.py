"""Find the turn that used an idempotency key, and compare its input."""

from __future__ import annotations

from sqlalchemy import bindparam

from convstore.db.connection import Connection
from convstore.db.tables import turns as table
from convstore.db.turn_rows import READ_TURNS, decode_turns
from convstore.errors import IdempotencyMismatch
from convstore.messages.storable_text import to_column
from convstore.values.identifiers import ConversationKey
from convstore.values.results import Turn, TurnStatus

# A running or completed turn uses up its key; the unique index has the same condition.
_BY_KEY = READ_TURNS.where(
    table.c.idempotency_key == bindparam("key"), table.c.status.in_([TurnStatus.RUNNING, TurnStatus.COMPLETED])
)


def find_turn_by_key(
    connection: Connection, key: ConversationKey, idempotency_key: str, input_digest: bytes
) -> Turn | None:
    """Return the running or completed turn that used an idempotency key, or None.

    Raises:
        IdempotencyMismatch: the key was used with other input.
    """
    values = {"owner": key.owner, "id": key.id, "key": to_column(idempotency_key)}
    row = connection.execute(_BY_KEY, values).one_or_none()
    if row is None:
        return None
    # Redacting a message removes the digest over it. Whoever has the key then gets what is stored of the turn.
    if row.input_digest is not None and row.input_digest != input_digest:
        raise IdempotencyMismatch(
            f"conversation {key.id!r}: the idempotency key {idempotency_key!r} was used for turn {row.seq} with other "
            f"input; use a new key for a new request"
        )
    return decode_turns(connection, key.owner, [row])[0]
