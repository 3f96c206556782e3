"""Test the engines that convstore makes from a URL, and that it does not change a caller's engine."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, StaticPool, create_engine, event, make_url, text

from convstore import Store
from convstore.db import schema_upgrade
from convstore.db.engine import Database
from convstore.db.engine import open_database as open_url
from convstore.errors import ConvstoreError, DatabaseUnavailable, InvalidInput
from tests.schema.support import contents, opened, run

# --- a caller's engine ---

COMPLETION = {
    "id": "chatcmpl-1",
    "model": "test-model",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}],
}


def _documented(engine: Engine) -> Engine:
    """Set up sqlite3's transactions as SQLAlchemy's manual says."""

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


SQLITE_ENGINES: dict[str, Callable[[str], Engine]] = {
    "as the driver has it": create_engine,
    "as the manual has it": lambda url: _documented(create_engine(url)),
    "autocommit": lambda url: create_engine(url, isolation_level="AUTOCOMMIT"),
    "exclusive": lambda url: create_engine(url, connect_args={"isolation_level": "EXCLUSIVE"}),
    "without a pool": lambda url: create_engine(url, poolclass=NullPool),
    "one connection in memory": lambda _: create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    ),
}
POSTGRES_ENGINES: dict[str, Callable[[str], Engine]] = {
    "as the driver has it": create_engine,
    "autocommit": lambda url: create_engine(url, isolation_level="AUTOCOMMIT"),
    "serializable": lambda url: create_engine(url, isolation_level="SERIALIZABLE"),
    "without a pool": lambda url: create_engine(url, poolclass=NullPool),
}


@pytest.fixture(
    params=[("sqlite", name) for name in SQLITE_ENGINES] + [("postgresql", name) for name in POSTGRES_ENGINES],
    ids=" ".join,
)
def engine(request: pytest.FixtureRequest) -> Any:
    """Return an engine, made in one of an application's ways."""
    backend, habit = request.param
    url = request.getfixturevalue("sqlite_url" if backend == "sqlite" else "postgres_url")
    made = (SQLITE_ENGINES if backend == "sqlite" else POSTGRES_ENGINES)[habit](url)
    yield made
    made.dispose()


def _count(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


def test_a_callers_engine_works_with_any_settings(engine: Engine) -> None:
    with Store(engine=engine) as store:
        made = store.new("Hello", system="Be brief.")
        store.append(made.id, {"role": "user", "content": "Well?"})
        store.append(made.id, COMPLETION)
        assert [message["role"] for message in store.history(made.id)] == ["system", "user", "assistant"]
    assert _count(engine, "convstore_messages") == 3
    assert _count(engine, "convstore_turns") == 1


@pytest.mark.parametrize("table", ["convstore_messages", "convstore_turns", "convstore_conversations"])
def test_a_failure_half_way_leaves_nothing_with_any_engine_settings(engine: Engine, table: str) -> None:
    with Store(engine=engine) as store:
        made = store.new("Hello")
        broken = True

        @event.listens_for(engine, "after_cursor_execute")
        def break_off(*arguments: Any) -> None:
            written = arguments[2].replace(" public.", " ")  # PostgreSQL's statements name the schema
            if broken and written.startswith((f"INSERT INTO {table}", f"UPDATE {table}")):
                raise RuntimeError("half-way")

        with pytest.raises(RuntimeError, match="half-way"):
            store.append(made.id, COMPLETION)
        broken = False
        assert _count(engine, "convstore_messages") == 0
        assert _count(engine, "convstore_turns") == 0
        assert store.get(made.id) == made
        store.append(made.id, COMPLETION)


def test_a_callers_engine_stays_open_and_unchanged(engine: Engine) -> None:
    pool, said = engine.pool, list[str]()
    with engine.connect() as connection:
        before = _character(connection)
    with Store(engine=engine) as store:
        store.new("Hello")
    assert engine.pool is pool

    @event.listens_for(engine, "before_cursor_execute")
    def note(*arguments: Any) -> None:
        said.append(arguments[2])

    with engine.connect() as connection:
        assert _character(connection) == before
    assert [statement for statement in said if "BEGIN IMMEDIATE" in statement] == []


def _character(connection: Any) -> tuple[Any, ...]:
    driver = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        pragmas = ("foreign_keys", "busy_timeout", "synchronous", "journal_mode")
        return (
            driver.isolation_level,
            driver.in_transaction,
            *(driver.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas),
        )
    return driver.autocommit, connection.scalar(text("SHOW transaction_isolation")), connection.get_isolation_level()


def test_closing_a_store_does_not_close_a_callers_connections(database_url: str) -> None:
    engine = create_engine(database_url)
    store = Store(engine=engine)
    store.new("Hello")
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
    store.close()
    with engine.connect() as connection:
        assert connection.connection.driver_connection is driver
        assert connection.scalar(text("SELECT count(*) FROM convstore_conversations")) == 1
    engine.dispose()


def test_closing_a_store_closes_the_connections_that_it_made(database_url: str) -> None:
    schema_upgrade.upgrade(database_url)
    database = open_url(database_url)
    with database.read() as connection:
        driver: Any = connection.plain.connection.driver_connection
    database.close()
    if database.is_sqlite:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            driver.execute("SELECT 1")
    else:
        assert driver.closed


def test_on_postgresql_a_read_sees_one_moment_and_a_write_sees_later_commits(postgres_url: str) -> None:
    engine = create_engine(postgres_url, isolation_level="SERIALIZABLE")
    database = Database(engine, owned=False)
    with Store(postgres_url) as store:
        for kind, expected in ((database.read, 0), (database.write, 1)):
            with kind() as connection:
                before = connection.scalar(text("SELECT count(*) FROM convstore_conversations"))
                store.new("Meanwhile")
                after = connection.scalar(text("SELECT count(*) FROM convstore_conversations"))
            assert (after or 0) - (before or 0) == expected
    engine.dispose()


def test_on_sqlite_a_read_sees_one_moment(sqlite_url: str) -> None:
    with Store(sqlite_url) as store, opened(sqlite_url) as database:
        store.new("Before")
        with database.read() as connection:
            before = connection.scalar(text("SELECT count(*) FROM convstore_conversations"))
            store.new("Meanwhile")
            assert connection.scalar(text("SELECT count(*) FROM convstore_conversations")) == before


# --- URLs ---


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_each_way_to_write_a_postgresql_url_works(postgres_url: str, scheme: str) -> None:
    rest = postgres_url.partition("://")[2]
    with Store(f"{scheme}://{rest}") as store:
        store.new("Hello")
        assert len(store.list()) == 1


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://app:{SECRET}@127.0.0.1:1/app",
        f"postgres://app:{SECRET}@127.0.0.1:1/app",
        f"postgresql+psycopg://app:{SECRET}@127.0.0.1:1/app?connect_timeout=2",
        f"postgresql://app@127.0.0.1:1/app?password={SECRET}",
        f"postgresql://app:{SECRET}@127.0.0.1:1/app?nonsense=1",
        f"postgresql://app:{SECRET}@127.0.0.1:1/app?connect_timeout=soon",
        f"postgresql://app:{SECRET}@127.0.0.1:port/app",
        f"postgresql://app:x@{SECRET}@127.0.0.1:1/app",
        f"mysql://app:{SECRET}@127.0.0.1/app",
        f"nonsense://app:{SECRET}@127.0.0.1/app",
        f"sqlite://app:{SECRET}@127.0.0.1/app",
        f"postgresql+asyncpg://app:{SECRET}@127.0.0.1/app",
        f"postgresql+psycopg_async://app:{SECRET}@127.0.0.1/app",
    ],
)
def test_no_error_and_no_label_holds_a_password(url: str) -> None:
    labels = []

    def use() -> None:
        with Store(url) as store:
            labels.append(store._engine.transactions.database.label)
            store.list()

    with pytest.raises((InvalidInput, DatabaseUnavailable)) as raised:
        use()
    assert SECRET not in " ".join(labels)
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_a_password_does_not_reach_the_terminal(tmp_path: Path) -> None:
    url = f"postgresql://app:{SECRET}@127.0.0.1:1/app"
    for command in (["list"], ["db", "check"], ["db", "upgrade"], ["db", "current", "--json"]):
        done = run("-m", "convstore", *command, cwd=tmp_path, CONVSTORE_DB=url, CONVSTORE_DEBUG="1")
        assert done.returncode == 7, done.stderr
        assert "127.0.0.1" in done.stderr
        assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not a database"),
        ("   ", "not a database"),
        ("chat\0.db", "not a database"),
        ("sqlite:///chat\0.db", "not a database"),
        ("://", "not a database URL"),
        ("sqlite://chat.db", r"sqlite:///chat\.db"),
        ("sqlite:///chat.db?timeout=soon", "not a database URL"),
        ("postgresql://host:port/name", "not a database URL"),
        ("postgresql://app:p@ss@host/name", "write @ in a password as %40"),
        ("mysql://host/name", "SQLite or PostgreSQL, not in .mysql."),
        ("http://example.com", "SQLite or PostgreSQL, not in .http."),
        ("sqlite+nonsense:///chat.db", "unknown kind of database"),
        ("postgresql+psycopg_async://host/name", "asynchronous"),
    ],
)
def test_an_invalid_url_is_refused_before_anything_is_made(
    url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=says):
        Store(url)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_of_another_database_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"not in .mysql."):
        Store(engine=create_engine("mysql+pymysql://host/name", module=sqlite3))


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("psycopg", "psycopg_binary", "psycopg_c"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from convstore.cli import main
sys.exit(main())
"""


def test_the_error_for_a_missing_driver_names_the_extra(tmp_path: Path) -> None:
    done = run("-c", BLOCKED, "db", "current", cwd=tmp_path, CONVSTORE_DB=f"postgresql://app:{SECRET}@127.0.0.1:1/app")
    assert done.returncode == 7
    assert done.stderr == "convstore: PostgreSQL needs the driver psycopg: pip install 'convstore[postgres]'\n"
    # SQLite needs no change.
    done = run("-c", BLOCKED, "db", "upgrade", cwd=tmp_path, CONVSTORE_DB="chat.db")
    assert done.returncode == 0, done.stderr


def test_a_server_that_does_not_run_is_a_database_error() -> None:
    with Store("postgresql://app@127.0.0.1:1/app") as store, pytest.raises(DatabaseUnavailable, match="refused"):
        store.list()


def test_a_role_that_may_not_make_tables_gets_an_error_that_says_so(postgres_empty_url: str) -> None:
    with opened(postgres_empty_url) as database, database.write() as connection:
        name = make_url(postgres_empty_url).database
        connection.execute(text(f"CREATE ROLE reader_{name} LOGIN"))
        connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        role = f"reader_{name}"
    engine = create_engine(postgres_empty_url)

    @event.listens_for(engine, "connect")
    def become(connection: Any, _: object) -> None:
        connection.execute(f"SET ROLE {role}")
        connection.commit()

    with pytest.raises(DatabaseUnavailable, match="permission denied") as raised:
        schema_upgrade.upgrade_database(Database(engine, owned=False))
    assert isinstance(raised.value, ConvstoreError)
    engine.dispose()
    assert contents(postgres_empty_url) == {}
    with opened(postgres_empty_url) as database, database.write() as connection:
        connection.execute(text(f"DROP ROLE {role}"))


@pytest.mark.parametrize(
    "text",
    [
        "host=h dbname=d password=secret",
        "'postgresql://u:secret@h/d'",
        '"postgresql://u:secret@h/d"',
        " postgresql://u:secret@h/d",
        "jdbc:postgresql://u:secret@h/d",
        "postgres//u:secret@h/d",
        "postgresql:u:secret@h/d",
        "u:secret@h/d",
        "postgresql://u:sec@ret@h/d",
    ],
)
def test_a_connection_string_that_is_not_a_url_is_refused_and_its_password_is_not_shown(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="not a database URL") as caught:
        Store(text)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["chat.db", "./u:p@h.db", "postgres-notes.db", "a=b.db", "notes of host.db"])
def test_an_ordinary_file_name_is_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store(name) as store:
        store.new()
    assert (tmp_path / name).exists()
