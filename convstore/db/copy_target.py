"""Write the copy of a database: prepared, marked while it is unfinished, and changed in batches."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, update
from sqlalchemy.exc import IntegrityError

from convstore.db import row_writes, schema_upgrade, search_backlog, search_index
from convstore.db.connection import Connection
from convstore.db.copied_rows import CONVERSATIONS, MESSAGES
from convstore.db.engine import Database
from convstore.db.erasure_steps import mark_copied
from convstore.db.row_stream import Row, count_key_columns, list_columns, make_measure
from convstore.db.tables import compatibility
from convstore.errors import DatabaseError
from convstore.messages.storable_text import from_column
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq

_BATCH_ROWS, _BATCH_BYTES = 2000, 8_000_000

_MARK = update(compatibility).values(minimum_version=bindparam("minimum"))
_PLACES = {name: place for place, name in enumerate(list_columns(CONVERSATIONS))}


def prepare_target(target: Database) -> None:
    """Create or upgrade a SQLite file, and check that a copy can be written to the database.

    Raises:
        SchemaOutdated: a PostgreSQL database needs `convstore db upgrade`.
        SchemaTooNew: a newer release upgraded the database.
    """
    found = schema_upgrade.state(target)
    if found.is_unfinished_copy and found.up_to_date:
        target.keep_schema(found.place)
    elif target.is_sqlite and not found.usable:
        schema_upgrade.upgrade_database(target)
    elif not found.usable:
        raise schema_upgrade.refusal(found, target, names_database=True)


def mark_unfinished(target: Database) -> None:
    """Let no release use the database until `mark_finished`."""
    _set_minimum(target, schema_upgrade.UNFINISHED_COPY)


def mark_finished(target: Database, minimum: str | None) -> None:
    """Let releases use the database again.

    Args:
        minimum: the oldest schema that a release must know to use it.
    """
    with target.write() as connection:
        mark_copied(connection, datetime.now(UTC))
        connection.execute(_MARK, {"minimum": minimum or schema_upgrade.HEAD})


def _set_minimum(target: Database, minimum: str) -> None:
    with target.write() as connection:
        connection.execute(_MARK, {"minimum": minimum})


class TableWriter:
    """Collects what must be changed in a table, and writes it in batches, each in a transaction.

    What the search index does not have is noted in the same transaction.
    """

    def __init__(self, target: Database, table: str) -> None:
        self._target = target
        self._table = table
        self._measure = make_measure(table)
        self._begin()

    def _begin(self) -> None:
        self._new: list[Row] = []
        self._changed: list[tuple[Row, Row]] = []
        self._removed: list[Row] = []
        self._size = 0

    def write(self, row: Row, before: Row | None) -> None:
        """Insert a row, or change it.

        Args:
            before: the row as it is; None: it does not exist.
        """
        if before is None:
            self._new.append(row)
        else:
            self._changed.append((before, row))
        self._count(self._measure(row))

    def delete(self, row: Row) -> None:
        """Delete a row."""
        self._removed.append(row[: count_key_columns(self._table)])
        self._count(0)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > _BATCH_BYTES or len(self._new) + len(self._changed) + len(self._removed) >= _BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if not (self._new or self._changed or self._removed):
            return
        try:
            with self._target.write() as connection:
                self._write(connection)
        except IntegrityError as error:
            reason = str(error.orig).partition("\n")[0]
            raise DatabaseError(
                f"database {self._target.label}: a constraint refused a row of {self._table} ({reason}): the source is "
                "damaged, or another program writes to the copy"
            ) from error
        self._begin()

    def _write(self, connection: Connection) -> None:
        # Deleted and changed rows first: they may have a key or a name that a new row has.
        row_writes.delete_rows(connection, self._table, self._removed)
        row_writes.replace_rows(connection, self._table, [row for _, row in self._changed])
        row_writes.insert_rows(connection, self._table, self._new)
        if self._table == MESSAGES:
            _put_off_messages(connection, self._new)
        elif self._table == CONVERSATIONS:
            _put_off_titles(connection, self._new)
            _replace_titles(connection, self._changed)


def _put_off_messages(connection: Connection, rows: Iterable[Row]) -> None:
    first: dict[ConversationKey, Seq] = {}
    for owner, id, seq, *_ in rows:
        first.setdefault(ConversationKey(owner, id), seq)
    for key, seq in first.items():
        search_backlog.put_off(connection, key, seq)


def _put_off_titles(connection: Connection, rows: Iterable[Row]) -> None:
    for row in rows:
        if any(_get_names(row)):
            search_backlog.put_off(connection, ConversationKey(row[0], row[1]), NO_SEQ)


def _replace_titles(connection: Connection, changed: Iterable[tuple[Row, Row]]) -> None:
    for before, after in changed:
        key = ConversationKey(after[0], after[1])
        search_index.replace_title(connection, key, after[_PLACES["created_at"]], _get_names(before), _get_names(after))


def _get_names(row: Row) -> tuple[Any, Any]:
    """Return the title and the name of a conversation."""
    return from_column(row[_PLACES["title"]]), row[_PLACES["name"]]
