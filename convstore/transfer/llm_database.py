"""Look up what the messages of `llm`'s database refer to."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Any

from convstore.transfer.data_urls import MAX_ATTACHMENT_BYTES, make_image_part, make_part
from convstore.transfer.foreign_database import ForeignDatabase, Row, read_text
from convstore.transfer.source_lines import describe_limit

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


class LlmDatabase(ForeignDatabase):
    """A `logs.db` that is open, whichever release of `llm` made it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._indexed: set[str] = set()
        self._owners: dict[str, set[Any] | None] = {}  # of a table: what its rows belong to; None: too many to keep
        self._response_columns = ""

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
            self.query(
                f"create temp table of_{table} as select response_id, rowid as row from main.{table}"  # noqa: S608
            )
            self.query(f"create index temp.by_{table} on of_{table} (response_id)")
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
