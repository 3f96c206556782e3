"""Open the database of `llm` and look up what its messages refer to."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from convstore.transfer.data_urls import MAX_ATTACHMENT_BYTES, make_image_part, make_part
from convstore.transfer.source_lines import SQLITE_MAGIC, UnreadableSource, describe_limit, open_path

# Python's sqlite3 cannot decode an error text of SQLite that quotes damaged bytes.
DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError)


_MOST_OWNERS = 100_000

_RESPONSE_COLUMNS = (
    "id",
    "model",
    "resolved_model",
    "prompt",
    "system",
    "response",
    "reasoning",
    "schema_id",
    "datetime_utc",
)


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


class LlmDatabase:
    """A `logs.db` that is open, whichever release of `llm` made it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._columns: dict[str, frozenset[str]] = {}
        self._indexed: set[str] = set()
        self._owners: dict[str, set[Any] | None] = {}  # of a table: what its rows belong to; None: too many to keep
        self._response_columns = ""

    def has(self, table: str, column: str | None = None) -> bool:
        """Return True if the database has the table, and the column."""
        if table not in self._columns:
            rows = self._connection.execute("select name from pragma_table_info(?)", (table,)).fetchall()
            self._columns[table] = frozenset(row["name"] for row in rows)
        return bool(self._columns[table]) and (column is None or column in self._columns[table])

    def may_have(self, table: str, column: str, id: Any) -> bool:
        """Return False if the table has no row with the id in the column: most responses have nothing but text."""
        if table not in self._owners:
            rows: list[Row] = []
            if self.has(table, column):
                statement = f"select distinct {column} as id from {table} limit ?"  # noqa: S608
                rows = self.query(statement, _MOST_OWNERS + 1)
            self._owners[table] = None if len(rows) > _MOST_OWNERS else {row["id"] for row in rows}
        owners = self._owners[table]
        return owners is None or id in owners

    def query(self, statement: str, *values: Any) -> list[Row]:
        """Return the rows of a query."""
        return self._connection.execute(statement, values).fetchall()

    def stream(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Return the rows of a query, one at a time."""
        return self._connection.execute(statement, values)

    def read_response(self, row_id: int) -> Row:
        """Return a response, without the JSON that was sent and received, which repeats it."""
        if not self._response_columns:
            self._response_columns = ", ".join(column for column in _RESPONSE_COLUMNS if self.has("responses", column))
        statement = f"select {self._response_columns} from responses where rowid = ?"  # noqa: S608
        return self.query(statement, row_id)[0]

    def list_of_response(self, table: str, response_id: str) -> list[Row]:
        """Return the rows of a table that belong to a response, in order of their ids."""
        if not self.may_have(table, "response_id", response_id):
            return []
        # `llm` has no index for it, and a scan for each response would take hours in a large file. The index is a
        # temporary table: SQLite keeps it in a file of its own and leaves the database as it is.
        if table not in self._indexed:
            self._connection.execute(
                f"create temp table of_{table} as select response_id, rowid as row from main.{table}"  # noqa: S608
            )
            self._connection.execute(f"create index temp.by_{table} on of_{table} (response_id)")
            self._indexed.add(table)
        return self.query(
            f"select t.* from temp.of_{table} i join main.{table} t on t.rowid = i.row"  # noqa: S608
            " where i.response_id = ? order by i.row",
            response_id,
        )

    def list_fragments(self, table: str, response_id: str) -> list[str]:
        """Return the texts of a response's fragments, in order."""
        if not self.may_have(table, "response_id", response_id):
            return []
        rows = self.query(
            f"select f.content from {table} t join fragments f on f.id = t.fragment_id"  # noqa: S608
            ' where t.response_id = ? order by t."order"',
            response_id,
        )
        return [read_text(row["content"]) for row in rows]

    def read_fragment(self, id: Any) -> str:
        """Return the text of a fragment, "" if the database does not have it."""
        rows = self.query("select content from fragments where id = ?", id) if isinstance(id, (int, str)) else []
        return read_text(rows[0]["content"]) if rows else ""

    def make_attachment_part(self, id: Any, losses: Counter[str]) -> dict[str, Any] | None:
        """Return the content part of an attachment, or None and count why it has none."""
        rows = (
            self.query("select id, type, path, url, length(content) as size from attachments where id = ?", id)
            if isinstance(id, str) and self.has("attachments")
            else []
        )
        if not rows:
            losses["an attachment is not in the database"] += 1
            return None
        row = rows[0]
        media_type = read_text(row["type"]) or "application/octet-stream"
        if row["size"] is not None:
            if row["size"] > MAX_ATTACHMENT_BYTES:
                losses[f"an attachment is larger than {describe_limit(MAX_ATTACHMENT_BYTES)}"] += 1
                return None
            content = self.query("select content from attachments where id = ?", id)[0]["content"]
            if isinstance(content, bytes):
                return make_part(media_type, content)
        if url := read_text(row["url"]):
            if media_type.startswith("image/"):
                return make_image_part(url)
            losses["a file is only linked, and only images can be sent as links"] += 1
            return None
        losses["an attachment's bytes are not in the database, only its path"] += 1
        return None
