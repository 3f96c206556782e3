"""Insert and read attachments: bytes that are stored once for each owner.

Messages refer to them by their digest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import bindparam, select

from convstore.db.connection import Connection
from convstore.db.dialect import count_bytes, insert_or_ignore, insert_or_lock
from convstore.db.tables import attachments as table

# In one statement. SQLite takes 32,766 variables (https://sqlite.org/limits.html), and PostgreSQL's protocol 65,535.
_MAX_DIGESTS = 30_000

_READ = select(table.c.digest, table.c.data).where(
    table.c.owner == bindparam("owner"), table.c.digest.in_(bindparam("digests", expanding=True))
)


@cache
def _insert_statement(dialect: str) -> Any:
    # The row exists if another message holds the same bytes. Several callers may also insert the same bytes at once. On
    # PostgreSQL a row that exists is locked, and not changed: a purge that holds it deletes it first, or waits for this
    # transaction, and then finds its message.
    if dialect == "sqlite":
        return insert_or_ignore(table, dialect)
    return insert_or_lock(table, dialect)


def insert_attachments(connection: Connection, owner: str, blobs: Mapping[bytes, bytes], now: datetime) -> None:
    """Store bytes under their digests.

    A row that the owner already has stays as it is.
    """
    # Sorted, because two callers that store the same attachments could otherwise deadlock on PostgreSQL.
    rows = [{"owner": owner, "digest": digest, "data": blobs[digest], "created_at": now} for digest in sorted(blobs)]
    if rows:
        connection.execute_many(_insert_statement(connection.dialect.name), rows)


@cache
def _sizes_statement(dialect: str) -> Any:
    return select(table.c.digest, count_bytes(dialect, table.c.data).label("size")).where(
        table.c.owner == bindparam("owner"), table.c.digest.in_(bindparam("digests", expanding=True))
    )


def read_sizes(connection: Connection, owner: str, digests: Collection[bytes]) -> dict[bytes, int]:
    """Return the numbers of bytes of some attachments, by digest. Missing ones are left out."""
    found: dict[bytes, int] = {}
    wanted = sorted(digests)
    for start in range(0, len(wanted), _MAX_DIGESTS):
        some = {"owner": owner, "digests": wanted[start : start + _MAX_DIGESTS]}
        rows = connection.execute(_sizes_statement(connection.dialect.name), some)
        found.update((row.digest, row.size) for row in rows)
    return found


def read_attachments(connection: Connection, owner: str, digests: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the bytes of the digests that the owner has. Damaged rows are left out."""
    found: dict[bytes, bytes] = {}
    wanted = sorted(set(digests))
    for start in range(0, len(wanted), _MAX_DIGESTS):
        some = wanted[start : start + _MAX_DIGESTS]
        rows = connection.execute(_READ, {"owner": owner, "digests": some})
        found.update((row.digest, row.data) for row in rows if isinstance(row.data, bytes))
    return found
