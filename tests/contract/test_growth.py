"""What a call costs does not grow with the conversation: statements, commits, rows, and the database's own steps."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import CursorResult

from convstore import Store
from convstore.testing import ChatServer, Reply
from tests.contract.conftest import Backend
from tests.contract.invariants import check_conversation

SHORT, LONG = 10, 100_000
MOST_STATEMENTS = {"say": 7, "append": 4, "messages": 2, "list": 1, "get": 1}
"""The published constants; a turn's are those of its two transactions together."""
PAGE = 50
SLACK = 64
"""How many rows beyond a page a reading may look at, to step over what is off the path."""


@dataclass
class Cost:
    """What went to a database."""

    statements: list[str] = field(default_factory=list)
    commits: int = 0
    rows: int = 0
    """Rows that the database handed over."""
    steps: int = 0
    """Of SQLite: instructions of its own machine, in hundreds. Of PostgreSQL: rows it looked at."""


class Meter:
    """Counts what goes through an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cost: Cost | None = None
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        event.listen(engine, "commit", self._commit)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", self._watch)

    def _before(self, _c: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self._cost is not None and not statement.startswith("BEGIN"):
            self._cost.statements.append(statement)

    def _after(self, _c: Connection, cursor: Any, statement: str, *_: Any) -> None:
        if self._cost is not None and statement.lstrip("(").startswith(("SELECT", "WITH")) and cursor.rowcount > 0:
            self._cost.rows += cursor.rowcount

    def _commit(self, _: Connection) -> None:
        if self._cost is not None:
            self._cost.commits += 1

    def _watch(self, connection: sqlite3.Connection, _: object) -> None:
        connection.row_factory = self._row
        connection.set_progress_handler(self._step, 100)

    def _row(self, _cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._cost is not None:
            self._cost.rows += 1
        return row

    def _step(self) -> int:
        if self._cost is not None:
            self._cost.steps += 1
        return 0

    @contextmanager
    def measure(self) -> Iterator[Cost]:
        cost = Cost()
        looked = self._looked()
        self._cost = cost
        yield cost
        self._cost = None
        cost.steps += self._looked() - looked

    def _looked(self) -> int:
        """How many rows PostgreSQL has looked at in our tables so far."""
        if self._engine.dialect.name == "sqlite":
            return 0
        with self._engine.connect() as connection, connection.begin():
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
        with self._engine.connect() as connection, connection.begin():
            found: CursorResult[Any] = connection.execute(
                text(
                    "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables "
                    "WHERE relname LIKE 'convstore_%'"
                )
            )
            return int(found.scalar_one())


@pytest.mark.parametrize("backend", ["sqlite-engine", "postgresql-engine"], indirect=True)
def test_no_call_costs_more_in_a_long_conversation(backend: Backend, chat_server: ChatServer) -> None:
    chat_server.otherwise = lambda _: Reply("ok")
    engine = create_engine(backend.url, pool_size=1, max_overflow=0)  # one connection: its counters are all there are
    meter = Meter(engine)
    try:
        with Store(engine=engine, client=backend.client, model="test-model") as store:
            short, middle, long = (_filled(store, count) for count in (SHORT, PAGE + SLACK + 10, LONG))
            for name, call in _calls(store).items():
                costs = []
                for id in (short, middle, long):
                    call(id)  # the first time compiles
                    with meter.measure() as cost:
                        call(id)
                    costs.append(cost)
                small, medium, large = costs
                assert large.statements == small.statements, name
                assert large.commits == small.commits == medium.commits, name
                assert len(large.statements) <= MOST_STATEMENTS[name], name
                assert large.commits == {"say": 2, "append": 1}.get(name, large.commits), name
                assert large.rows == medium.rows, name
                assert large.rows <= PAGE + SLACK + 5, name
                assert large.steps <= medium.steps + 5, (name, medium.steps, large.steps)
            for id in (short, middle):
                check_conversation(engine, "", id)
            backend.whole = False  # to check a hundred thousand messages takes seconds
            assert store.get(long).length > LONG
            with meter.measure() as cost:
                store.messages(long, limit=None)
            assert cost.rows > LONG  # the meter does count
            assert cost.steps > 1000
    finally:
        engine.dispose()


def _filled(store: Store, count: int) -> str:
    """A conversation of `count` messages."""
    id = store.new(f"of {count}", system="s").id
    left = count - 1
    while left > 0:
        batch = min(left, 10_000)
        store.append(id, *[{"role": "user", "content": f"message {number}"} for number in range(batch)])
        left -= batch
    assert store.get(id).length == count
    return id


def _calls(store: Store) -> dict[str, Callable[[str], object]]:
    return {
        "say": lambda id: store.say(id, "hi", history=False),
        "append": lambda id: store.append(id, "hi"),
        "messages": lambda id: store.messages(id, limit=PAGE),
        "list": lambda _: store.list(),
        "get": store.get,
    }
