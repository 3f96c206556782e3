"""Check that a row holds values of its columns' types.

SQLite keeps a value of any type in any column, and a damaged file may hold bytes that are no text. Without the check,
such a value would become a part of a message, or an error that says nothing about the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Float, Integer, LargeBinary, Numeric, Table, Text

from convstore.db.row_errors import damaged_row
from convstore.db.tables import UtcDateTime

_MAX_KNOWN = 4096

_TYPES: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (UtcDateTime, (datetime,), "a time"),
    (Text, (str,), "a text"),
    (BigInteger, (int,), "a whole number"),
    (Integer, (int,), "a whole number"),
    (Float, (float, int), "a number"),
    (Numeric, (float, int), "a number"),
    (LargeBinary, (bytes,), "bytes"),
)


class RowCheck:
    """Checks the rows of one statement.

    Args:
        columns: the first columns of the statement, in order; the others are not checked.
    """

    def __init__(self, columns: Iterable[ColumnElement[Any]]) -> None:
        columns = list(columns)
        self._columns = [_describe(column) for column in columns]
        self._seq_place = next((place for place, column in enumerate(columns) if column.name == "seq"), None)
        self._known: set[tuple[type, ...]] = set()

    def __call__(self, rows: Iterable[Sequence[Any]], conversation_id: str, name: str = "") -> None:
        """Check rows of a conversation.

        Args:
            name: what a row is, such as "message seq"; the first column that has the name `seq` follows it.

        Raises:
            DamagedRow: a value has another type than its column.
        """
        for row in rows:
            types = tuple(map(type, row))
            if types not in self._known:
                self._find_damage(row, conversation_id, name)
                if len(self._known) < _MAX_KNOWN:
                    self._known.add(types)

    def _find_damage(self, row: Sequence[Any], conversation_id: str, name: str) -> None:
        for (column, allowed, kind, nullable), value in zip(self._columns, row, strict=False):
            if (value is None and nullable) or type(value) in allowed:
                continue
            where = f"{name} {row[self._seq_place] if self._seq_place is not None else ''}".strip()
            raise damaged_row(conversation_id, f"{where + ': ' if where else ''}column {column} does not hold {kind}")


def _describe(column: ColumnElement[Any]) -> tuple[str, tuple[type, ...], str, bool]:
    """Return the name of a column, the types that it may hold, their name, and whether it may be NULL."""
    base = next(iter(column.base_columns))
    name = f"{base.table.name}.{base.name}" if isinstance(getattr(base, "table", None), Table) else str(column.name)
    for kind, allowed, words in _TYPES:
        if isinstance(column.type, kind):
            # A column of an outer join or a subquery may be NULL, although it is not in its table.
            return name, allowed, words, base is not column or getattr(base, "nullable", True)
    return name, (object,), "a value", True
