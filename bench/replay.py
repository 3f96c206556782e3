"""What a store really says to its database, written down once and said again by the bare driver."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import Pool

BEGIN = "BEGIN"
COMMIT = "COMMIT"


@dataclass(slots=True)
class Step:
    """A statement as the driver was given it, or a commit."""

    sql: str
    parameters: Any = ()
    many: bool = False
    fetched: int = 0
    """Rows that were taken from the driver."""
    received: int = 0
    """Rows that reached this process: psycopg receives a whole result, sqlite3 steps through it."""


class Recorder:
    """The steps of every engine of the process since the last `take`."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def take(self) -> list[Step]:
        steps, self._steps = self._steps, []
        return steps

    def statement(self, _: object, __: object, sql: str, parameters: Any, ___: object, many: bool) -> None:
        if not sql.startswith(BEGIN):
            self._steps.append(Step(sql, parameters, many))

    def answered(self, connection: Connection, cursor: Any, *_: object) -> None:
        if connection.dialect.name == "postgresql" and cursor.description is not None:
            self._steps[-1].received = cursor.rowcount

    def committed(self, _: object) -> None:
        self._steps.append(Step(COMMIT))

    def connected(self, connection: Any, _: object) -> None:
        if hasattr(connection, "total_changes"):  # sqlite3
            connection.row_factory = self._sqlite_row
            connection.set_trace_callback(self._sqlite_begin)
        else:
            connection.row_factory = self._psycopg_rows

    def _sqlite_begin(self, sql: str) -> None:
        # From the driver itself, whichever door it came by: without its BEGIN a replay would commit each statement.
        if sql.startswith(BEGIN):
            self._steps.append(Step(sql))

    def _sqlite_row(self, _: object, row: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._steps:
            self._steps[-1].fetched += 1
            self._steps[-1].received += 1
        return row

    def _psycopg_rows(self, _: object) -> Any:
        def make(values: Sequence[Any]) -> tuple[Any, ...]:
            if self._steps:
                self._steps[-1].fetched += 1
            return tuple(values)

        return make


@contextmanager
def recording() -> Iterator[Recorder]:
    """Records what stores do that are opened in this block. Nothing listens outside of it: it would be measured."""
    recorder = Recorder()
    listeners: list[tuple[Any, str, Any]] = [
        (Engine, "before_cursor_execute", recorder.statement),
        (Engine, "after_cursor_execute", recorder.answered),
        (Engine, "commit", recorder.committed),
        (Pool, "connect", recorder.connected),
    ]
    for listener in listeners:
        event.listen(*listener)
    try:
        yield recorder
    finally:
        for listener in listeners:
            event.remove(*listener)


def replay(connection: Any, steps: Sequence[Step]) -> None:
    """Says the same through the bare driver: same statements, parameters and commits, and as many rows fetched.

    SQLite is told to BEGIN as the store told it; psycopg sends that by itself before the first statement.
    """
    for step in steps:
        if step.sql is COMMIT:
            connection.commit()
            continue
        cursor = connection.cursor()
        if step.many:
            cursor.executemany(step.sql, step.parameters)
        else:
            cursor.execute(step.sql, step.parameters)
        if step.fetched:
            cursor.fetchmany(step.fetched)
        cursor.close()
