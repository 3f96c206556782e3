"""Read all rows of a table, of all owners, in the order of its key.

The rows come in pages, so that a page takes little memory however large the rows are, and a connection that has only
been read from may do other work between two pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import LargeBinary, Text, bindparam, func, select, tuple_
from sqlalchemy.types import BigInteger

from convstore.db.connection import Connection
from convstore.db.dialect import count_bytes, is_sqlite
from convstore.db.tables import metadata

_PAGE_ROWS, _PAGE_BYTES = 1000, 4_000_000

OpenConnection = Callable[[], AbstractContextManager[Connection]]
Row = tuple[Any, ...]


@cache
def make_measure(table: str, columns: tuple[str, ...] | None = None) -> Callable[[Row], int]:
    """Return the function that tells about how many bytes a row takes beside its key.

    Args:
        columns: the columns of the row; None: all of the table.
    """
    names = columns or tuple(list_columns(table))
    places = [names.index(name) for name in _list_large_columns(table, columns)]
    if not places:
        return lambda _: 0
    take = itemgetter(*places) if len(places) > 1 else lambda row: (row[places[0]],)
    return lambda row: sum(map(len, filter(None, take(row))))


@cache
def list_columns(table: str) -> list[str]:
    """Return the names of a table's columns; those of its key are the first."""
    return list(metadata.tables[table].c.keys())


@cache
def count_key_columns(table: str) -> int:
    """Return how many columns the key of a table has."""
    return len(metadata.tables[table].primary_key)


def stream_pages(
    open_connection: OpenConnection, table: str, columns: Sequence[str] | None = None
) -> Iterator[list[Row]]:
    """Yield the rows of a table in the order of its key, some at a time.

    Args:
        open_connection: opens a connection for each page.
        columns: the columns to read; those of the key come first. None: all.
    """
    chosen = tuple(columns) if columns is not None else None
    keys = list_columns(table)[: count_key_columns(table)]
    after: dict[str, Any] = {}
    while True:
        with open_connection() as connection:
            page, is_last = _read_page(connection, table, chosen, after)
        if page:
            yield page
        if is_last:
            return
        after = {f"after_{name}": value for name, value in zip(keys, page[-1], strict=False)}


def _read_page(
    connection: Connection, table: str, columns: tuple[str, ...] | None, after: dict[str, Any]
) -> tuple[list[Row], bool]:
    """Return the next rows, and whether there are no more."""
    statement = _page_statement(connection.dialect.name, table, columns, is_next_page=bool(after))
    values = {**after, "most": _PAGE_ROWS}
    page: list[Row] = []
    if not is_sqlite(connection):
        page.extend(connection.execute(statement, {**values, "most_bytes": _PAGE_BYTES}))
        # A page that was cut short by its bytes may be the last one too: the next is then empty.
        return page, not page or (len(page) < _PAGE_ROWS and not _list_large_columns(table, columns))
    size, measure = 0, make_measure(table, columns)
    with connection.plain.execute(statement, values) as found:  # SQLite reads a row when it is asked for
        for row in found:
            page.append(tuple(row))
            size += measure(row)
            if size > _PAGE_BYTES:
                return page, False
    return page, len(page) < _PAGE_ROWS


@cache
def _page_statement(dialect: str, table: str, columns: tuple[str, ...] | None, *, is_next_page: bool) -> Any:
    source = metadata.tables[table]
    keys, names = list(source.primary_key), columns or list_columns(table)
    page = select(*(source.c[name] for name in names)).order_by(*keys).limit(bindparam("most", type_=BigInteger))
    if is_next_page:
        page = page.where(tuple_(*keys) > tuple_(*(bindparam(f"after_{key.name}", type_=key.type) for key in keys)))
    if dialect == "sqlite" or not _list_large_columns(table, columns):
        return page
    # PostgreSQL would send all rows at once. It knows the size of a large value without reading it.
    rows = page.subquery()
    size: Any = sum(count_bytes(dialect, rows.c[name]) for name in _list_large_columns(table, columns))
    order = [rows.c[key.name] for key in keys]
    before = (func.sum(size).over(order_by=order, rows=(None, 0)) - size).label("bytes_before")
    sized = select(rows, before).subquery()
    return (
        select(*(sized.c[name] for name in names))
        .where(sized.c.bytes_before < bindparam("most_bytes", type_=BigInteger))
        .order_by(*(sized.c[key.name] for key in keys))
    )


@cache
def _list_large_columns(table: str, columns: tuple[str, ...] | None) -> list[str]:
    source = metadata.tables[table]
    return [
        name
        for name in columns or list_columns(table)
        if not source.c[name].primary_key and isinstance(source.c[name].type, Text | LargeBinary)
    ]
