"""Write the parts of statements in which SQLite and PostgreSQL differ.

They are inserts, clocks, lock waits and hints to the planner.
"""

from __future__ import annotations

import importlib
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    FromClause,
    Interval,
    LargeBinary,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    false,
    func,
    literal_column,
    select,
    true,
    tuple_,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType

from convstore.db.connection import Connection
from convstore.db.tables import UtcDateTime

NO_LIMIT = 2**62
"""A limit that no result reaches, so that the same statement works with and without a limit."""


def is_sqlite(connection: Connection) -> bool:
    """Return True on SQLite, False on PostgreSQL."""
    return connection.dialect.name == "sqlite"


def insert_or_ignore(table: Table, dialect: str) -> Any:
    """Return an INSERT that does nothing if the row exists.

    On PostgreSQL an error would end the transaction, which may be the caller's own.
    """
    return _insert(table, dialect).on_conflict_do_nothing()


def insert_or_update(table: Table, values: dict[str, Any], dialect: str) -> Any:
    """Return an INSERT that sets these values instead if the row exists."""
    return _insert(table, dialect).on_conflict_do_update(index_elements=list(table.primary_key), set_=values)


def insert_or_lock(table: Table, dialect: str) -> Any:
    """Return an INSERT that changes nothing if the row exists, and locks it until the transaction ends (PostgreSQL)."""
    column = next(column for column in table.c if not column.primary_key)
    # https://www.postgresql.org/docs/current/sql-insert.html: all rows are locked, also if the condition does not hold.
    return _insert(table, dialect).on_conflict_do_update(
        index_elements=list(table.primary_key), set_={column.name: column}, where=false()
    )


def _insert(table: Table, dialect: str) -> Any:
    # Imported here, because the other dialect takes long to import and is not used.
    return importlib.import_module(f"sqlalchemy.dialects.{dialect}").insert(table)


# Leases expire by the server's clock on PostgreSQL, because callers run on many hosts, and by the host's clock on
# SQLite. `clock_timestamp` is not used, because a distributed PostgreSQL refuses a volatile function in a write.


def current_time(dialect: str) -> ColumnElement[datetime]:
    """Return the expression for the present moment; on SQLite the parameter `now`."""
    if dialect == "sqlite":
        return bindparam("now", type_=UtcDateTime())
    return func.statement_timestamp(type_=UtcDateTime())


def lease_expiry(dialect: str) -> ColumnElement[datetime]:
    """Return the expression for the moment at which a lease expires.

    `lease_expiry_values` returns its parameters.
    """
    if dialect == "sqlite":
        return bindparam("expires_at", type_=UtcDateTime())
    return func.statement_timestamp(type_=UtcDateTime()) + bindparam("span", type_=Interval())


def current_time_values(dialect: str, now: datetime) -> dict[str, Any]:
    """Return the parameters of `current_time`."""
    return {"now": now} if dialect == "sqlite" else {}


def lease_expiry_values(dialect: str, now: datetime, span: timedelta) -> dict[str, Any]:
    """Return the parameters of `lease_expiry`."""
    return {"expires_at": now + span} if dialect == "sqlite" else {"span": span}


def skip_locked(
    dialect: str, table: Table, key: tuple[ColumnElement[bool], ...], conditions: tuple[ColumnElement[bool], ...]
) -> tuple[ColumnElement[bool], ...]:
    """Return the condition of an UPDATE of one row that changes nothing if another transaction holds the row.

    Without it, the UPDATE waits for that transaction, which may be a caller's own and last for any time. On SQLite only
    one transaction at a time can write.

    Args:
        key: the conditions for the row's primary key. They also stand beside the subquery, because a distributed
            PostgreSQL would otherwise lock the rows of all its servers.
        conditions: the other conditions.
    """
    if dialect == "sqlite":
        return (*key, *conditions)
    columns = list(table.primary_key)
    # As an UPDATE locks it (`FOR NO KEY UPDATE`): a transaction that makes a fork of the row is not in the way.
    mine = select(*columns).where(*key, *conditions).with_for_update(skip_locked=True, key_share=True)
    return (*key, tuple_(*columns).in_(mine))


class few(FunctionElement[bool]):  # noqa: N801 (used as a function, as are SQLAlchemy's own)
    """A condition that tells the planner that a recursive query returns few rows.

    SQLite assumes that a recursive query returns a million rows. So it reads a whole conversation instead of looking up
    a few messages. It does this to join them in the wanted order, and after `ANALYZE` also to build a Bloom filter over
    them. `likelihood` corrects the assumption (https://sqlite.org/lang_corefunc.html#likelihood).
    """

    name = "few"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: OperatorType | None = None) -> few:  # noqa: ARG002
        return self  # SQLAlchemy would otherwise write `… = 1`, and SQLite would not see the hint


@compiles(few)
def _compile_few(element: few, compiler: SQLCompiler, **how: Any) -> str:
    return f"({compiler.process(element.clauses, **how)})"


@compiles(few, "sqlite")
def _compile_few_for_sqlite(element: few, compiler: SQLCompiler, **how: Any) -> str:
    return f"likelihood({compiler.process(element.clauses, **how)}, 0.000001)"


class join_lines(FunctionElement[str]):  # noqa: N801 (as `few`)
    """The values of a group, one on each line, in any order. SQLAlchemy's own writes its separator anew each time."""

    name = "join_lines"
    type = Text()
    inherit_cache = True


@compiles(join_lines)
def _compile_join_lines(element: join_lines, compiler: SQLCompiler, **how: Any) -> str:
    return f"string_agg({compiler.process(element.clauses, **how)}, chr(10))"


@compiles(join_lines, "sqlite")
def _compile_join_lines_for_sqlite(element: join_lines, compiler: SQLCompiler, **how: Any) -> str:
    return f"group_concat({compiler.process(element.clauses, **how)}, char(10))"


def count_bytes(dialect: str, column: ColumnElement[Any]) -> ColumnElement[int]:
    """Return the expression for the number of bytes of a text or of bytes; 0 for NULL."""
    # `octet_length` is new in SQLite 3.43.
    length = func.length(cast(column, LargeBinary)) if dialect == "sqlite" else func.octet_length(column)
    return func.coalesce(length, 0, type_=BigInteger)


def hide_from_planner(column: ColumnElement[Any], value: object) -> ColumnElement[Any]:
    """Return an expression equal to a column without NULLs, which no index matches.

    Args:
        value: any value of the column's type.
    """
    return func.coalesce(column, value)


def join_looked_up(
    dialect: str, many: FromClause, table: Table, conditions: tuple[ColumnElement[bool], ...]
) -> tuple[FromClause, FromClause]:
    """Join each row of a query with one row of a table.

    The database looks up each row of the table by its primary key, whatever the number of rows. SQLite does so if the
    query has a hint that its rows are few (`few`). PostgreSQL has no statistics of a table that has just grown. It then
    assumes that a conversation is one row, and would read the whole conversation for each row of the query. A lateral
    query for each row prevents this.

    Returns:
        The join, and the side of it that has the table's columns.
    """
    if dialect == "sqlite":
        return many.join(table, and_(*conditions)), table
    row = select(table).where(*conditions).limit(literal_column("1")).lateral("looked_up")
    return many.join(row, true()), row
