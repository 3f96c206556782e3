"""Add the terms of many texts to PostgreSQL's index at once.

A GIN index does not take new entries one by one: they wait in a list, and are sorted in together when the list has 4 MB
(https://www.postgresql.org/docs/current/gin.html#GIN-FAST-UPDATE). That is 1,700 messages, most of them with words that
the others have not, so each of its pages is read and written for a few entries. With four times as many, a message
takes a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Integer, bindparam, column, select, text

from convstore.db.connection import Connection
from convstore.db.tables import search_documents as table

FEWEST_TEXTS = 4_000
"""Fewer texts are not worth it."""
_LIST_SIZE = "256MB"

_INDEX = f"{table.name}_terms_idx"
_READ_LIMIT = text(
    "SELECT pg_catalog.current_setting('gin_pending_list_limit') AS before,"
    " pg_catalog.bool_and(pg_catalog.pg_has_role(relowner, 'USAGE')) AS is_owner"
    " FROM pg_catalog.pg_class WHERE relname = :index"
)
# `true`: as SET LOCAL, until the transaction ends.
_SET_LIMIT = text("SELECT pg_catalog.set_config('gin_pending_list_limit', :limit, true)")
_TABLE = select(column("tableoid", Integer)).select_from(table).where(table.c.owner == bindparam("owner")).limit(1)
_SORT_IN = text(
    "SELECT pg_catalog.gin_clean_pending_list(pg_index.indexrelid) FROM pg_catalog.pg_index"
    " JOIN pg_catalog.pg_class ON pg_class.oid = pg_index.indexrelid"
    " JOIN pg_catalog.pg_am ON pg_am.oid = pg_class.relam AND pg_am.amname = 'gin'"
    " WHERE pg_index.indrelid = :table"
)


@contextmanager
def sorted_in_together(connection: Connection, owner: str) -> Iterator[None]:
    """Sort the terms of the texts that the block adds into the index at its end.

    Nothing is different if the role does not own the index, because it may not sort them in then.
    """
    before, is_owner = connection.execute(_READ_LIMIT, {"index": _INDEX}).one()
    if not is_owner:
        yield
        return
    connection.execute(_SET_LIMIT, {"limit": _LIST_SIZE})
    yield  # an error ends the transaction, and with it the setting
    for row in connection.execute(_TABLE, {"owner": owner}):
        connection.execute(_SORT_IN, {"table": row.tableoid})
    connection.execute(_SET_LIMIT, {"limit": before})
