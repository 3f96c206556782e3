"""Write the tables of messages and turns as Parquet, with the extra `convstore[parquet]`.

Times are timestamps in UTC, in microseconds; counts are int64. Rows are written in groups, so that a file of any size
needs the memory of one group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from convstore.errors import InvalidInput
from convstore.transfer.writers.flat_tables import MESSAGES, TURNS, Row, Table
from convstore.transfer.writers.written_text import OnNote, ignore_note
from convstore.values.exported import ExportedConversation

if TYPE_CHECKING:
    pass

MAX_GROUP_ROWS = 50_000
MAX_GROUP_CHARACTERS = 32 * 2**20


def write_parquet_messages(
    conversations: Iterable[ExportedConversation],
    on_note: OnNote = ignore_note,  # noqa: ARG001
) -> Iterator[bytes]:
    """Yield the pieces of a file with a row for each message; nothing needs a note.

    Raises:
        InvalidInput: pyarrow is not installed.
    """
    return _write(_import_pyarrow(), MESSAGES, conversations)


def write_parquet_turns(
    conversations: Iterable[ExportedConversation],
    on_note: OnNote = ignore_note,  # noqa: ARG001
) -> Iterator[bytes]:
    """Yield the pieces of a file with a row for each turn; nothing needs a note.

    Raises:
        InvalidInput: pyarrow is not installed.
    """
    return _write(_import_pyarrow(), TURNS, conversations)


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise InvalidInput("writing Parquet needs the extra: pip install 'convstore[parquet]'") from None
    return pyarrow


class _Pieces:
    """A file for pyarrow that keeps what was written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        self._size += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        return self._size

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _write(pyarrow: Any, table: Table, conversations: Iterable[ExportedConversation]) -> Iterator[bytes]:
    schema = _make_schema(pyarrow, table)
    pieces = _Pieces()
    with pyarrow.parquet.ParquetWriter(pyarrow.PythonFile(pieces, mode="w"), schema, compression="zstd") as writer:
        for rows in _group_rows(table, conversations):
            arrays = zip(zip(*rows, strict=True), schema, strict=True)
            columns = [pyarrow.array(values, field.type) for values, field in arrays]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
            yield pieces.take()
    yield pieces.take()


def _make_schema(pyarrow: Any, table: Table) -> Any:
    types = {
        "text": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
        "time": pyarrow.timestamp("us", tz="UTC"),
    }
    return pyarrow.schema([(name, types[kind]) for name, kind in table.columns.items()])


def _group_rows(table: Table, conversations: Iterable[ExportedConversation]) -> Iterator[list[Row]]:
    rows: list[Row] = []
    size = 0
    for exported in conversations:
        for row in table.list_rows(exported):
            rows.append(row)
            size += sum(len(value) for value in row if isinstance(value, str))
            if len(rows) >= MAX_GROUP_ROWS or size >= MAX_GROUP_CHARACTERS:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows
