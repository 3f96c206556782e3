"""How SQLite and PostgreSQL differ in what statements say: inserts, clocks, lock waits, hints to the planner."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    FromClause,
    Interval,
    Table,
    and_,
    bindparam,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType

from convstore.db.tables import UtcDateTime

NO_LIMIT = 2**62
"""A limit that limits nothing: one statement serves with and without a limit."""


def is_sqlite(connection: Connection) -> bool:
    """Return True on SQLite, False on PostgreSQL."""
    return connection.dialect.name == "sqlite"


def insert_or_ignore(table: Table, dialect: str) -> Any:
    """Return an INSERT that does nothing if the row exists.

    An error instead would end a transaction on PostgreSQL, and the transaction may be the caller's own.
    """
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


# The clock that judges a lease: on PostgreSQL the server's, because callers run on many hosts; on SQLite the host's.
# `statement_timestamp` and not `clock_timestamp`: a distributed PostgreSQL refuses a volatile function in a write.


def current_time(dialect: str) -> ColumnElement[datetime]:
    """Return the expression for the present moment; on SQLite the parameter `now`."""
    if dialect == "sqlite":
        return bindparam("now", type_=UtcDateTime())
    return func.statement_timestamp(type_=UtcDateTime())


def lease_expiry(dialect: str) -> ColumnElement[datetime]:
    """Return the expression for the moment at which a lease expires; see `lease_expiry_values`."""
    if dialect == "sqlite":
        return bindparam("expires_at", type_=UtcDateTime())
    return func.statement_timestamp(type_=UtcDateTime()) + bindparam("span", type_=Interval())


def current_time_values(dialect: str, now: datetime) -> dict[str, Any]:
    """Return the parameters of `current_time`."""
    return {"now": now} if dialect == "sqlite" else {}


def lease_expiry_values(dialect: str, now: datetime, span: timedelta) -> dict[str, Any]:
    """Return the parameters of `lease_expiry`."""
    return {"expires_at": now + span} if dialect == "sqlite" else {"span": span}


def limit_lock_wait(dialect: str) -> tuple[ColumnElement[bool], ...]:
    """Return a condition, always true, after which the transaction waits three seconds at most for any lock.

    It is part of a statement that is made anyway, so it costs no journey to the server. It never belongs in a
    statement that may run in a caller's own transaction. SQLite waits as long as its busy timeout.
    """
    if dialect == "sqlite":
        return ()
    return (func.set_config("lock_timeout", "3s", true()).is_not(None),)


class few(FunctionElement[bool]):  # noqa: N801 (used as a function, as are SQLAlchemy's own)
    """A condition on the rows of a recursive query that tells the planner: these rows are few.

    SQLite assumes that a recursive query returns a million rows. It then reads all of a conversation instead of looking
    up a few of its messages: to join them in the wanted order, and once it has statistics (`ANALYZE`), to build a Bloom
    filter over them. It believes `likelihood` (https://sqlite.org/lang_corefunc.html#likelihood).
    """

    name = "few"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: OperatorType | None = None) -> few:  # noqa: ARG002
        return self  # otherwise it would be compared with 1, which hides it from SQLite


@compiles(few)
def _compile_few(element: few, compiler: SQLCompiler, **how: Any) -> str:
    return f"({compiler.process(element.clauses, **how)})"


@compiles(few, "sqlite")
def _compile_few_for_sqlite(element: few, compiler: SQLCompiler, **how: Any) -> str:
    return f"likelihood({compiler.process(element.clauses, **how)}, 0.000001)"


def hide_from_planner(column: ColumnElement[Any], value: object) -> ColumnElement[Any]:
    """Return an expression equal to a column without NULLs, which no index matches.

    Args:
        value: any value of the column's type.
    """
    return func.coalesce(column, value)


def join_looked_up(
    dialect: str, many: FromClause, table: Table, conditions: tuple[ColumnElement[bool], ...]
) -> tuple[FromClause, FromClause]:
    """Join each row of a query with one row of a table; return the join and the table's side.

    However many rows there are, each of the table's is looked up by its primary key. SQLite does so where it takes the
    rows for few (`few`). PostgreSQL, until it has statistics of a table that has grown, takes a whole conversation for
    one row, and would read it for each of them: unless the row is looked up by a query of its own.
    """
    if dialect == "sqlite":
        return many.join(table, and_(*conditions)), table
    row = select(table).where(*conditions).limit(literal_column("1")).lateral("looked_up")
    return many.join(row, true()), row
