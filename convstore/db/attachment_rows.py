"""Attachments: bytes that messages refer to by their digest, once for each owner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from convstore.db.tables import attachments as table

# Of one statement: SQLite takes 32,766 variables (https://sqlite.org/limits.html), PostgreSQL's protocol 65,535.
_MOST_DIGESTS = 30_000

_READ = select(table.c.digest, table.c.data).where(
    table.c.owner == bindparam("owner"), table.c.digest.in_(bindparam("digests", expanding=True))
)


@cache
def _insert_statement(dialect: str) -> Any:
    # The same bytes come again with every fork, retry and message that has them, and from several callers at once.
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


def put(connection: Connection, owner: str, blobs: Mapping[bytes, bytes], now: datetime) -> None:
    """Keep bytes under their digests; those that this owner has already stay as they are."""
    # In order: two callers who store the same ones in turn would each wait for the other on PostgreSQL.
    rows = [{"owner": owner, "digest": key, "data": blobs[key], "created_at": now} for key in sorted(blobs)]
    if rows:
        connection.execute(_insert_statement(connection.dialect.name), rows)


def fetch(connection: Connection, owner: str, digests: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the bytes of those digests that this owner has."""
    found: dict[bytes, bytes] = {}
    wanted = sorted(set(digests))
    for start in range(0, len(wanted), _MOST_DIGESTS):
        some = wanted[start : start + _MOST_DIGESTS]
        rows = connection.execute(_READ, {"owner": owner, "digests": some})
        found.update((bytes(row.digest), bytes(row.data)) for row in rows)
    return found
