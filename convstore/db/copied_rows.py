"""Read the rows of a database for a copy of it: as they are stored, but for what belongs to living processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Numeric

from convstore.db.row_check import RowCheck
from convstore.db.row_stream import OpenConnection, Row, list_columns, stream_pages
from convstore.db.tables import (
    attachments,
    compatibility,
    conversations,
    erasures,
    messages,
    metadata,
    search_backlog,
    search_documents,
    turns,
)
from convstore.errors import DamagedRow

_NOT_COPIED = (compatibility, search_documents, search_backlog, erasures)
"""The search index of another database has another form, and is made again. Each file has its own steps of erasing."""

COPIED_TABLES = tuple(table.name for table in metadata.sorted_tables if table not in _NOT_COPIED)
"""The tables that are copied: parents before their children."""
ATTACHMENTS, CONVERSATIONS, MESSAGES, TURNS = attachments.name, conversations.name, messages.name, turns.name

_NAMES = {MESSAGES: "message seq", TURNS: "turn"}

# A lease that has ended for everybody: on SQLite because it expired more than a day ago (`lease_watch`), on PostgreSQL
# by the server's clock. No lock file has the name of its token.
_ENDED_TOKEN, _ENDED_AT = "ended-by-copy", datetime(2000, 1, 1, tzinfo=UTC)


def read_pages(open_connection: OpenConnection, table: str) -> Iterator[list[Row]]:
    """Yield all rows of a table in the order of its key, as a copy has them, some at a time.

    Args:
        open_connection: opens a connection for each page.

    Raises:
        DamagedRow: a value has another type than its column.
    """
    check, change = RowCheck(metadata.tables[table].c), _find_change(table)
    for page in stream_pages(open_connection, table):
        try:
            check(page, "")
        except DamagedRow:
            for row in page:  # to name the conversation
                check((row,), str(row[1]), _NAMES.get(table, ""))
            raise
        yield page if change is None else list(map(change, page))


def _find_change(table: str) -> Callable[[Row], Row] | None:
    """Return the function that makes the copy of a row, or None if the copy is equal."""
    if table == CONVERSATIONS:
        return _end_lease
    places = {
        place: column.type.scale
        for place, column in enumerate(metadata.tables[table].c)
        if isinstance(column.type, Numeric) and column.type.scale is not None
    }
    return (lambda row: _round(row, places)) if places else None


_PLACES = {name: place for place, name in enumerate(list_columns(CONVERSATIONS))}


def take_name_away(row: Row) -> Row:
    """Return the row of a conversation without its name."""
    place = _PLACES["name"]
    return (*row[:place], None, *row[place + 1 :])


def get_column(table: str, row: Row, name: str) -> Any:
    """Return the value of a column."""
    return row[list_columns(table).index(name)]


def _end_lease(row: Row) -> Row:
    """Return the row of a conversation as if the process that runs its turn had just died."""
    values = list(row)
    if row[_PLACES["lease_token"]] is not None:
        values[_PLACES["lease_token"]], values[_PLACES["lease_expires_at"]] = _ENDED_TOKEN, _ENDED_AT
    values[_PLACES["compacting_until"]] = None
    return tuple(values)


def _round(row: Row, places: dict[int, int]) -> Row:
    """Round numbers as PostgreSQL does; SQLite keeps more digits than the column has."""
    values = list(row)
    for place, digits in places.items():
        if values[place] is not None:
            values[place] = round(values[place], digits)
    return tuple(values)
