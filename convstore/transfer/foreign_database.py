"""Read the SQLite databases of other programs, and never write them.

This is the only module outside `db/` that runs SQL: of files that are not ours, by the standard library's sqlite3.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from convstore.transfer.source_lines import SQLITE_MAGIC, UnreadableSource, open_path

# Python's sqlite3 cannot decode an error text of SQLite that quotes damaged bytes.
DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError)


class Row(dict[str, Any]):
    """A row by the names of its columns; None for a column that the release does not have."""

    def __missing__(self, column: str) -> None:
        return None


def open_read_only(path: str | os.PathLike[str]) -> sqlite3.Connection:
    """Open a SQLite file for reading only.

    Raises:
        UnreadableSource: it is not a SQLite database, or cannot be opened.
    """
    found = Path(path)
    try:
        with open_path(found) as stream:
            if stream.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC:
                raise UnreadableSource("is not a SQLite database")
        # SQLite writes its shared memory beside a file in WAL mode, even to read it. Where it cannot, it must be told
        # that no other program writes the file either (https://sqlite.org/wal.html, "Read-Only Databases").
        is_writable = os.access(found.absolute().parent, os.W_OK)
        flags = "mode=ro" if is_writable else "mode=ro&immutable=1"
        connection = sqlite3.connect(f"file:{quote(str(found.absolute()))}?{flags}", uri=True)
    except (OSError, *DATABASE_ERRORS) as error:
        raise UnreadableSource(f"cannot be opened: {describe_error(error)}") from None
    connection.text_factory = _decode
    connection.row_factory = _make_row
    return connection


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _make_row(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Row:
    return Row(zip([column[0] for column in cursor.description], values, strict=True))


def describe_error(error: Exception) -> str:
    """Return the text of an error in one line."""
    return "the database is damaged" if isinstance(error, UnicodeDecodeError) else " ".join(str(error).split())


def read_text(value: Any) -> str:
    """Return a column's text; "" if it holds none. A column of SQLite may hold any type."""
    return value if isinstance(value, str) else ""


class ForeignDatabase:
    """A database of another program that is open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._columns: dict[str, frozenset[str]] = {}

    def has(self, table: str, column: str | None = None) -> bool:
        """Return True if the database has the table, and the column."""
        if table not in self._columns:
            rows = self._connection.execute("select name from pragma_table_info(?)", (table,)).fetchall()
            self._columns[table] = frozenset(row["name"] for row in rows)
        return bool(self._columns[table]) and (column is None or column in self._columns[table])

    def query(self, statement: str, *values: Any) -> list[Row]:
        """Return the rows of a query."""
        return self._connection.execute(statement, values).fetchall()

    def stream(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Return the rows of a query, one at a time."""
        return self._connection.execute(statement, values)
