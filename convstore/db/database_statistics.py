"""Count what a database has, and measure what it takes: for `db stats`.

Everything is counted by the database itself; no message is sent or decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import and_, bindparam, case, func, select, text
from sqlalchemy.exc import OperationalError

from convstore.db.connection import Connection
from convstore.db.dialect import count_bytes, is_sqlite
from convstore.db.engine import Database
from convstore.db.search_index import TERMS_TABLE
from convstore.db.tables import (
    UtcDateTime,
    attachments,
    conversations,
    messages,
    metadata,
    search_backlog,
    search_documents,
    turns,
)

_OWNERS = select(func.count(conversations.c.owner.distinct()))
_TURNS = select(func.count()).select_from(turns)
_MESSAGES = select(
    func.count().label("count"),
    func.min(messages.c.created_at).label("oldest"),
    func.max(messages.c.created_at).label("newest"),
    *(
        func.coalesce(func.sum(case((messages.c.created_at >= bindparam(name, type_=UtcDateTime()), 1), else_=0)), 0)
        for name in ("week_ago", "month_ago")
    ),
)
_CONVERSATIONS = select(
    func.count().label("count"),
    func.count(conversations.c.deleted_at).label("deleted"),
    func.count(case((conversations.c.deleted_at.is_(None), conversations.c.archived_at))).label("archived"),
)
_UNINDEXED = select(func.count()).select_from(
    search_backlog.join(
        messages,
        and_(
            messages.c.owner == search_backlog.c.owner,
            messages.c.conversation_id == search_backlog.c.conversation_id,
            messages.c.seq >= search_backlog.c.from_seq,
        ),
    )
)
_POSTGRES_SIZES = text("""
    SELECT c.relname AS name, pg_catalog.pg_table_size(c.oid) AS bytes, pg_catalog.pg_indexes_size(c.oid) AS index_bytes
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relname = ANY(:names) AND c.relkind IN ('r', 'p')
    """)
_POSTGRES_SIZE = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"
# https://sqlite.org/dbstat.html
_SQLITE_SIZES = """
    SELECT coalesce(m.tbl_name, s.name) AS name, coalesce(m.type = 'index', 0) AS is_index, sum(s.pgsize) AS bytes
    FROM dbstat s LEFT JOIN sqlite_master m ON m.name = s.name
    WHERE s.aggregate = TRUE GROUP BY 1, 2
    """


@dataclass(frozen=True, slots=True)
class TableSize:
    """What a table takes on the disk, in bytes."""

    name: str
    bytes: int
    index_bytes: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a database has, and what it takes on the disk."""

    messages: int
    oldest: datetime | None
    """When its oldest message was stored."""
    newest: datetime | None
    last_7_days: int
    """How many of the messages were stored in the last 7 days."""
    last_30_days: int
    conversations: int
    archived: int
    """How many conversations are in the archive and not deleted."""
    deleted: int
    turns: int
    owners: int
    attachments: int
    attachment_bytes: int
    unindexed: int
    """How many messages the search index does not have yet."""
    bytes: int
    """What the whole database takes, with the tables of others."""
    tables: tuple[TableSize, ...] | None
    """The tables, the largest first; None: this SQLite cannot measure them."""

    @property
    def search_index_bytes(self) -> int | None:
        """What the search index takes, with its own indexes; None: this SQLite cannot measure it."""
        if self.tables is None:
            return None
        return sum(size.bytes + size.index_bytes for size in self.tables if is_of_search_index(size.name))


def is_of_search_index(table: str) -> bool:
    """Return True if a table is a part of the search index."""
    return table.startswith((search_documents.name, search_backlog.name, TERMS_TABLE))


def read_statistics(database: Database, now: datetime | None = None) -> Statistics:
    """Count and measure, in one transaction.

    Args:
        database: its schema has been checked.
        now: the end of the last 7 and 30 days; None: the present moment.
    """
    now = now or datetime.now(UTC)
    ago = {"week_ago": now - timedelta(days=7), "month_ago": now - timedelta(days=30)}
    with database.read(keeps_bytes=True) as connection:
        count, oldest, newest, week, month = connection.execute(_MESSAGES, ago).one()
        found = connection.execute(_CONVERSATIONS).one()
        number, size = connection.execute(_attachments_statement(connection.dialect.name)).one()
        return Statistics(
            messages=count,
            oldest=_read_time(oldest),
            newest=_read_time(newest),
            last_7_days=week,
            last_30_days=month,
            conversations=found.count,
            archived=found.archived,
            deleted=found.deleted,
            turns=connection.scalar(_TURNS),
            owners=connection.scalar(_OWNERS),
            attachments=number,
            attachment_bytes=int(size),
            unindexed=connection.scalar(_UNINDEXED),
            bytes=_measure_all(connection),
            tables=_measure_tables(connection, database.schema),
        )


@cache
def _attachments_statement(dialect: str) -> Any:
    return select(func.count(), func.coalesce(func.sum(count_bytes(dialect, attachments.c.data)), 0))


def _read_time(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None  # of a damaged row, `db verify` tells


def _measure_all(connection: Connection) -> int:
    if not is_sqlite(connection):
        return int(connection.plain.exec_driver_sql(_POSTGRES_SIZE).scalar_one())
    pages, size = (connection.plain.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("page_count", "page_size"))
    return int(pages or 0) * int(size or 0)


def _measure_tables(connection: Connection, schema: str | None) -> tuple[TableSize, ...] | None:
    found = _measure_sqlite(connection) if is_sqlite(connection) else _measure_postgres(connection, schema)
    if found is None:
        return None
    return tuple(sorted(found, key=lambda size: (-size.bytes - size.index_bytes, size.name)))


def _measure_postgres(connection: Connection, schema: str | None) -> Sequence[TableSize]:
    names = [*metadata.tables]
    rows = connection.plain.execute(_POSTGRES_SIZES, {"schema": schema, "names": names})
    return [TableSize(row.name, row.bytes, row.index_bytes) for row in rows]


def _measure_sqlite(connection: Connection) -> Sequence[TableSize] | None:
    try:
        rows = connection.plain.exec_driver_sql(_SQLITE_SIZES).all()
    except OperationalError as error:
        if "no such table" in str(error.orig) and "dbstat" in str(error.orig):  # SQLite was built without it
            return None
        raise
    sizes: dict[str, list[int]] = {}
    for name, is_index, size in rows:
        if name in metadata.tables or name.startswith(TERMS_TABLE):
            sizes.setdefault(name, [0, 0])[is_index] += size
    return [TableSize(name, *both) for name, both in sizes.items()]
