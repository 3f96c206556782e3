"""Record the statements that a store sends to its database, and repeat them with the bare driver."""

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
    """A statement as the driver received it, or a commit."""

    sql: str
    parameters: Any = ()
    many: bool = False
    fetched: int = 0
    """Rows that the store fetched from the driver."""
    received: int = 0
    """Rows that reached this process: psycopg receives a whole result, sqlite3 one row after another."""


class Recorder:
    """Record the steps of every engine of the process since the last `take`."""

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
        # Read from the driver, however it began: without its BEGIN, a replay would commit each statement.
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
    """Record the stores that are opened in this block. Outside it nothing listens, because that would cost time."""
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
    """Repeat steps with the bare driver: the same statements, parameters, commits and number of fetched rows.

    SQLite gets the store's BEGIN; psycopg sends its own before the first statement.
    """
    for step in steps:
        if step.sql == COMMIT:
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
