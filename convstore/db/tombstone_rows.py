"""Read and write tombstones: which conversations no import may store again."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete, select

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_update
from convstore.db.tables import tombstones as table
from convstore.values.identifiers import ConversationKey
from convstore.values.results import ErasureReason

_IDS_AT_ONCE = 500

_REASONS = select(table.c.conversation_id, table.c.reason).where(
    table.c.owner == bindparam("owner"), table.c.conversation_id.in_(bindparam("ids", expanding=True))
)
_REMOVE = delete(table).where(table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("id"))


@cache
def _put_statement(dialect: str) -> Any:
    names = ("reason", "source_kind", "erased_at")
    given = {name: bindparam(f"given_{name}", type_=table.c[name].type) for name in names}
    return insert_or_update(table, given, dialect)


def put_tombstone(
    connection: Connection, key: ConversationKey, reason: ErasureReason, source_kind: str | None, now: datetime
) -> None:
    """Note that no import may store a conversation, or the rest of it, again.

    Args:
        source_kind: the kind of file that it was imported from; None: it was not.
    """
    values = {"reason": reason.value, "source_kind": source_kind, "erased_at": now}
    given = {f"given_{name}": value for name, value in values.items()}
    statement = _put_statement(connection.dialect.name)
    connection.execute(statement, {"owner": key.owner, "conversation_id": key.id, **values, **given})


def read_reasons(connection: Connection, owner: str, ids: Collection[str]) -> dict[str, ErasureReason]:
    """Return why no import may store some of these conversations, by their ids."""
    found: dict[str, ErasureReason] = {}
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        rows = connection.execute(_REASONS, {"owner": owner, "ids": wanted[start : start + _IDS_AT_ONCE]})
        found.update((row.conversation_id, ErasureReason(row.reason)) for row in rows)
    return found


def remove_tombstones(connection: Connection, owner: str, ids: Collection[str]) -> None:
    """Let imports store conversations again."""
    rows = [{"owner": owner, "id": id} for id in sorted(set(ids))]
    if rows:
        connection.execute_many(_REMOVE, rows)
