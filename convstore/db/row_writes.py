"""Insert, replace and delete rows of any table as they are, many at a time: for copies of databases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_ignore, insert_or_update
from convstore.db.postgres_schema import find_bound_schema
from convstore.db.row_stream import Row, count_key_columns, list_columns
from convstore.db.tables import metadata


@cache
def _insert_statement(dialect: str, table: str) -> Any:
    return insert_or_ignore(metadata.tables[table], dialect)


@cache
def _replace_statement(dialect: str, table: str) -> Any:
    columns = metadata.tables[table].c
    given = {column.name: bindparam(f"given_{column.name}", type_=column.type) for column in columns}
    changed = {name: value for name, value in given.items() if not columns[name].primary_key}
    if not changed:  # rows of this table have nothing beside their key
        return _insert_statement(dialect, table)
    return insert_or_update(metadata.tables[table], changed, dialect)


@cache
def _delete_statement(table: str) -> Any:
    keys = metadata.tables[table].primary_key
    return delete(metadata.tables[table]).where(*(key == bindparam(key.name, type_=key.type) for key in keys))


def insert_rows(connection: Connection, table: str, rows: Sequence[Row]) -> None:
    """Insert rows that do not exist."""
    if not rows:
        return
    columns = list_columns(table)
    if connection.dialect.driver == "psycopg":
        connection.send_copy(_make_copy_sql(connection, table, columns), rows)
    else:
        statement = _insert_statement(connection.dialect.name, table)
        connection.execute_many(statement, [dict(zip(columns, row, strict=True)) for row in rows])


def _make_copy_sql(connection: Connection, table: str, columns: Sequence[str]) -> str:
    quote = connection.dialect.identifier_preparer.quote
    schema = find_bound_schema(connection.plain.get_execution_options())
    place = f"{quote(schema)}.{quote(table)}" if schema is not None else quote(table)
    return f"COPY {place} ({', '.join(map(quote, columns))}) FROM STDIN"


def replace_rows(connection: Connection, table: str, rows: Sequence[Row]) -> None:
    """Change the rows that have these keys to these values."""
    if rows:
        columns = list_columns(table)
        given = [f"given_{name}" for name in columns[count_key_columns(table) :]]
        connection.execute_many(
            _replace_statement(connection.dialect.name, table),
            [dict(zip((*columns, *given), (*row, *row[count_key_columns(table) :]), strict=True)) for row in rows],
        )


def delete_rows(connection: Connection, table: str, keys: Sequence[Row]) -> None:
    """Delete the rows that have these keys."""
    if keys:
        names = list_columns(table)[: count_key_columns(table)]
        connection.execute_many(_delete_statement(table), [dict(zip(names, key, strict=True)) for key in keys])
