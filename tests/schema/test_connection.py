"""Test which statements the driver runs, and which SQLAlchemy runs."""

from __future__ import annotations

import gc
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import create_engine, event, make_url, text

from convstore import Store
from convstore.db import connection
from convstore.db.connection import Connection, find_statements
from convstore.db.tables import turns
from convstore.errors import DatabaseUnavailable
from convstore.testing import ChatServer


@pytest.fixture(autouse=True)
def _own_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back what `tests.driver_events` does for other tests."""
    monkeypatch.setattr(connection, "_ENGINE_EVENTS", ("before_execute", "after_execute", *CURSOR_EVENTS))


CURSOR_EVENTS = ("before_cursor_execute", "after_cursor_execute")


@pytest.fixture
def by_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of statements that SQLAlchemy ran."""
    seen: list[str] = []
    execute: Callable[..., Any] = sqlalchemy.Connection.execute

    def note(self: sqlalchemy.Connection, statement: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(str(statement))
        return execute(self, statement, *args, **kwargs)

    monkeypatch.setattr(sqlalchemy.Connection, "execute", note)
    return seen


def converse(store: Store) -> list[Any]:
    """Call what most applications call, and return what can be compared."""
    id = store.new(system="Be brief", name="one").id
    turn = store.say(id, "Hello", last=5)
    store.append(id, {"role": "user", "content": "Noted"}, {"role": "assistant", "content": "Yes"})
    fork = store.fork(id, at=2).id
    store.undo(id)
    return [
        turn.message,
        store.history(id),
        store.history(fork),
        [record.message for record in store.messages(id, limit=2)],
        store.get("one").length,
        len(store.list()),
        [turn.status for turn in store.turns(id)],
        len(store.tree(id)),
    ]


def open_store(database: str | sqlalchemy.Engine, server: ChatServer) -> Store:
    if isinstance(database, str):
        return Store(database, base_url=server.url, model="test-model")
    return Store(engine=database, base_url=server.url, model="test-model")


def test_the_driver_runs_the_statements_of_a_store(
    database_url: str, chat_server: ChatServer, by_sqlalchemy: list[str]
) -> None:
    with open_store(database_url, chat_server) as store:
        store.list()  # the first use checks the schema
        by_sqlalchemy.clear()
        converse(store)
    assert by_sqlalchemy == []


@pytest.mark.parametrize("event_name", ["before_execute", "after_execute", *CURSOR_EVENTS])
def test_whoever_listens_to_the_engine_sees_every_statement(
    database_url: str, chat_server: ChatServer, by_sqlalchemy: list[str], event_name: str
) -> None:
    heard = 0

    def listen(*_: Any) -> None:
        nonlocal heard
        heard += 1

    with open_store(database_url, chat_server) as store:
        expected = converse(store)
    with open_store(database_url, chat_server) as store:
        by_sqlalchemy.clear()
        event.listen(store._engine.transactions.database.engine, event_name, listen)
        assert converse(store.for_owner("ada")) == expected
    assert heard >= len(by_sqlalchemy) > 30


def test_a_logged_engine_logs_every_statement(
    database_url: str, chat_server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(database_url, chat_server) as store, caplog.at_level(logging.INFO, logger="sqlalchemy.engine"):
        id = store.new("Logged").id
        store.get(id)
    assert any("INSERT INTO" in record.getMessage() for record in caplog.records)


def test_a_callers_engine_and_a_callers_connection_run_every_statement(
    database_url: str, chat_server: ChatServer, by_sqlalchemy: list[str]
) -> None:
    with open_store(database_url, chat_server) as store:
        expected = converse(store)
    url = make_url(database_url)
    engine = create_engine(url.set(drivername="postgresql+psycopg") if url.get_backend_name() != "sqlite" else url)
    with open_store(engine, chat_server) as store:
        by_sqlalchemy.clear()
        assert converse(store.for_owner("ada")) == expected
        assert len(by_sqlalchemy) > 30
        by_sqlalchemy.clear()
        with engine.begin() as theirs:
            store.using(theirs).get("one")
        assert len(by_sqlalchemy) == 1
    engine.dispose()


def test_each_statement_is_compiled_once(
    database_url: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = 0
    compile_one = connection.Statements._compile

    def count(*args: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return compile_one(*args)

    with open_store(database_url, chat_server) as store:
        converse(store)
        monkeypatch.setattr(connection.Statements, "_compile", count)
        converse(store.for_owner("ada"))
    with open_store(database_url, chat_server) as store:
        converse(store.for_owner("bob"))
    assert compiled == 0


def test_an_error_of_the_driver_is_sqlalchemys_and_names_no_value(database_url: str) -> None:
    with Store(database_url) as store:
        database = store._engine.transactions.database
        with pytest.raises(DatabaseUnavailable) as raised, database.write() as opened:
            opened.execute(text("SELECT nothing FROM nowhere WHERE 1 = :value"), {"value": 7_777})
    cause = raised.value.__cause__
    assert isinstance(cause, sqlalchemy.exc.DBAPIError)
    assert isinstance(cause.orig, database.engine.dialect.loaded_dbapi.Error)
    assert "7777" not in str(cause)
    assert "SELECT nothing" in str(cause)


def test_ctrl_c_within_a_statement_gives_the_connection_up(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    with Store(database_url) as store:
        store.new("Before")
        with store._engine.transactions.database.write() as opened:
            monkeypatch.setattr(connection._Compiled, "read", interrupt)
            with pytest.raises(KeyboardInterrupt):
                opened.execute(text("SELECT 1"))
            monkeypatch.undo()
            assert opened.plain.invalidated
            opened.plain.get_transaction().rollback()  # type: ignore[union-attr]
        assert len(store.list()) == 1


def test_a_missing_value_is_an_error(database_url: str) -> None:
    with Store(database_url) as store:
        store.list()
        with store._engine.transactions.database.read() as opened:
            wanted = sqlalchemy.select(turns.c.seq).where(turns.c.owner == sqlalchemy.bindparam("owner"))
            with pytest.raises(sqlalchemy.exc.StatementError, match="'owner'"):
                opened.execute(wanted, {})


def test_a_schema_that_is_damaged_while_a_store_is_open_is_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with Store(path) as store:
        id = store.new("Before").id
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA writable_schema = ON")
            other.execute("CREATE TABLE marker (x)")
            other.execute("UPDATE sqlite_schema SET name = CAST(x'ff616263' AS TEXT) WHERE name = 'marker'")
            other.execute("PRAGMA schema_version = 9999")
            other.commit()
        for read in (store.get, store.history, store.turns):
            with pytest.raises(DatabaseUnavailable, match="damaged"):
                read(id)


def test_the_statements_of_a_schema_are_forgotten_with_their_last_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_latest", deque(maxlen=1))
    engine = create_engine("sqlite://")
    engine.connect().close()
    kept = find_statements(engine, "forgotten")
    assert find_statements(engine, "kept") is not None
    assert find_statements(engine, "forgotten") is kept
    del kept
    gc.collect()
    assert not [key for key in connection._statements if "forgotten" in tuple(key)]  # type: ignore[arg-type]
    assert find_statements(engine, "forgotten") is not None


def test_a_driver_that_is_not_known_is_left_to_sqlalchemy() -> None:
    class Dialect:
        driver = "psycopg2"

    class Engine:
        dialect = Dialect()

    assert find_statements(Engine(), None) is None  # type: ignore[arg-type]


def test_rows_have_the_values_and_names_of_sqlalchemys(database_url: str, chat_server: ChatServer) -> None:
    from convstore.db.tables import metadata

    with open_store(database_url, chat_server) as store:
        converse(store)
        with store._engine.transactions.database.read() as direct:
            plain = Connection(direct.plain)
            for table in metadata.tables.values():
                found = direct.execute(sqlalchemy.select(table))
                expected = plain.execute(sqlalchemy.select(table)).all()
                assert [tuple(row) for row in found] == [tuple(row) for row in expected]
                assert [[type(value) for value in row] for row in found] == [list(map(type, row)) for row in expected]
                for row, other in zip(found, expected, strict=True):
                    assert all(getattr(row, column.name) == getattr(other, column.name) for column in table.columns)
