"""Limit how long the statements of a transaction wait for locks on PostgreSQL."""

from __future__ import annotations

from sqlalchemy import bindparam, func, select, true

from convstore.db.connection import Connection
from convstore.db.dialect import is_sqlite
from convstore.db.tables import conversations as table
from convstore.values.identifiers import ConversationKey

_LIMIT = select(func.set_config("lock_timeout", "3s", true()))
_LIMIT_AT_CONVERSATION = _LIMIT.where(table.c.owner == bindparam("owner"), table.c.id == bindparam("id"))


def limit_lock_wait(connection: Connection, key: ConversationKey | None = None) -> None:
    """Limit how long each later statement of the transaction waits for a lock, to three seconds.

    It must not run in a caller's own transaction. On SQLite nothing is done, because SQLite waits as long as its busy
    timeout.

    It is a query of its own: a distributed PostgreSQL refuses a volatile function in a write.

    Args:
        key: an existing conversation. The query of its row sets the limit also on the server that keeps the row. None:
            the conversation does not exist yet.
    """
    if is_sqlite(connection):
        return
    if key is None:
        connection.execute(_LIMIT)
    else:
        connection.execute(_LIMIT_AT_CONVERSATION, {"owner": key.owner, "id": key.id})
