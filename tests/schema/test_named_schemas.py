"""Test stores that share a PostgreSQL database, each with its tables in one schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Engine,
    create_engine,
    event,
    make_url,
    text,
)

from convstore import AsyncStore, Store
from convstore.db import schema_upgrade, verification
from convstore.db.engine import open_database, parse_url
from convstore.db.postgres_schema import take_schema
from convstore.errors import ConversationNotFound, InvalidInput
from convstore.testing import ChatServer
from tests.cli.program import Program
from tests.faults.clients import open_store
from tests.faults.driven import engine_of, opened
from tests.schema.tenants import (
    administered,
    assert_only,
    fill_with,
    find_tables,
    in_schema,
)

# --- two tenants ---


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_two_tenants_never_see_each_other(tenants_url: str, chat_server: ChatServer, kind: str) -> None:
    with (
        opened(kind, tenants_url, chat_server, schema="t1") as one,
        opened(kind, in_schema(tenants_url, "t2"), chat_server) as two,
    ):
        fill_with(one, "A")
        assert two.list() == []
        fill_with(two, "B")
        assert_only(one, "A", "B")
        assert_only(two, "B", "A")
        one.delete("same-id")
        assert_only_is_deleted(one)
        assert_only(two, "B", "A")
    with opened(kind, tenants_url, chat_server) as third:
        assert third.list() == third.list(deleted=True) == []
        assert third.usage_by_owner().total.turns == 0


def assert_only_is_deleted(store: Store) -> None:
    with pytest.raises(ConversationNotFound):
        store.history("same-id")


def test_two_tenants_may_share_one_engine_of_the_caller(tenants_url: str, chat_server: ChatServer) -> None:
    engine = create_engine(tenants_url, pool_size=1, max_overflow=0)
    options = engine.get_execution_options()
    with (
        open_store_on(engine, chat_server, schema="t1") as one,
        open_store_on(engine, chat_server, schema="t2") as two,
        open_store_on(engine, chat_server) as third,
    ):
        fill_with(one, "A")
        fill_with(two, "B")
        assert_only(one, "A", "B")
        assert_only(two, "B", "A")
        assert third.list() == []
    assert engine.get_execution_options() == options
    with engine.connect() as connection:
        assert connection.get_execution_options().get("schema_translate_map") is None
        assert connection.scalar(text("SHOW search_path")) == '"$user", public'
    engine.dispose()


def open_store_on(engine: Engine, server: ChatServer, **options: Any) -> Store:
    return open_store(None, server.url, engine=engine, **options)  # type: ignore[arg-type]


def test_the_command_line_sees_only_the_schema_that_it_is_given(
    tenants_url: str, bare: Program, chat_server: ChatServer
) -> None:
    bare.set(CONVSTORE_DB=tenants_url, OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="test-model")
    for schema in ("t1", "t2"):
        assert bare("new", f"Of {schema}", "--name", "same", "--schema", schema).code == 0
        assert bare("say", "-c", "same", f"{schema} speaks", "--schema", schema).code == 0
    assert bare("new", "Of t1 alone", "--name", "alone", "--schema", "t1").code == 0
    assert "t1 speaks" in bare("show", "same", "--schema", "t1").out
    assert "t2 speaks" in bare("show", "same", "--db", in_schema(tenants_url, "t2")).out
    assert bare("show", "alone", "--schema", "t2").code == 3
    assert bare("show", "same").code == 3
    assert bare("list").out == ""
    assert "2 conversations, 2 messages, 1 turn, no damage" in bare("db", "verify", "--schema", "t1").out
    assert "1 conversation, 2 messages, 1 turn, no damage" in bare("db", "verify", "--schema", "t2").out
    assert "0 conversations" in bare("db", "verify").out
    assert "1 conversation, 2 messages" in bare("db", "verify", "same", "--schema", "t1").out
    assert bare("usage", "--by", "owner", "--json", "--schema", "t1").out.count('"turns": 1') == 2
    bare.set(CONVSTORE_DB=in_schema(tenants_url, "t1"))
    assert "Of t1 alone" in bare("list").out
    assert "schema=t1: schema" in bare("db", "check").out


def test_a_check_of_rows_sees_only_its_schema(tenants_url: str) -> None:
    with Store(tenants_url, schema="t1") as one, Store(tenants_url, schema="t2") as two:
        one.append(one.new().id, "One", "Two")
        two.append(two.new().id, "Three")
        with administered(tenants_url) as connection:
            connection.execute(text("UPDATE t2.convstore_messages SET content = 'other'"))
        databases = [store._engine.transactions.database for store in (one, two)]
        assert [len(verification.verify(it, None, lambda _: None).damages) for it in databases] == [0, 1]


# --- names and errors ---

ODD = [
    "Tenant",
    "two words",
    'a"b',
    "a'b",
    "a.b",
    "a,b",
    "a%b%(c)s",
    "a:b :c",
    "a\\b",
    "[a]",
    "__[SCHEMA__none]",
    "schéma 租户 😀",
    "select",
    "x" * 63,
    "-- ; DROP",
    "a\nb",
]


@pytest.mark.parametrize("schema", ODD)
def test_a_schema_may_have_any_name(postgres_empty_url: str, chat_server: ChatServer, schema: str) -> None:
    schema_upgrade.upgrade(postgres_empty_url, schema)
    assert set(find_tables(postgres_empty_url)) == {schema}
    engine = create_engine(postgres_empty_url)
    with (
        open_store(postgres_empty_url, chat_server.url, schema=schema) as store,
        Store(in_schema(postgres_empty_url, schema)) as same,
    ):
        made = store.new("Hello")
        store.say(made.id, "Hi")
        fork = store.fork(made.id)
        assert len(store.history(fork.id)) == 2
        assert {found.id for found in same.list()} == {made.id, fork.id}
        with engine.begin() as connection:
            store.using(connection).append(fork.id, "More")
        label = store._engine.transactions.database.label
        assert take_schema(parse_url(label), None)[1] == schema
    engine.dispose()


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("", "is empty"),
        ("a\0b", "NUL"),
        ("x" * 64, "has 64 bytes"),
        ("é" * 32, "has 64 bytes"),
        ("pg_mine", "keeps the name"),
        ("information_schema", "keeps the name"),
        ("$user", "keeps the name"),
        ("a\ud800", "not valid Unicode"),
    ],
)
def test_a_name_that_no_schema_can_have_is_refused_at_once(schema: str, says: str) -> None:
    url = "postgresql://app@127.0.0.1:1/app"
    engine = create_engine("postgresql+psycopg://app@127.0.0.1:1/app")
    for open_it in (
        lambda: Store(url, schema=schema),
        lambda: Store(engine=engine, schema=schema),
        lambda: AsyncStore(url, schema=schema),
        lambda: open_database(url, schema),
    ):
        with pytest.raises(InvalidInput, match=says):
            open_it()


def test_two_different_schemas_are_refused_and_one_may_be_named_twice(bare: Program) -> None:
    url = "postgresql://app@127.0.0.1:1/app?schema=t1"
    for given in (url + "&schema=t2", url):
        with pytest.raises(InvalidInput, match=r"two schemas are given, 't[12]' and 't[12]'"):
            Store(given, schema=None if given != url else "t2")
    Store(url, schema="t1").close()
    bare.set(CONVSTORE_DB=url)
    bare("list", "--schema", "t2").failed(2, "two schemas are given")
    for empty in ("?schema=", "?schema", "?schema=&connect_timeout=2", "?connect_timeout=2&schema="):
        with pytest.raises(InvalidInput, match="the name of the schema is empty"):
            Store(f"postgresql://app@127.0.0.1:1/app{empty}")


def test_sqlite_has_no_schemas(sqlite_url: str, tmp_path: Path, bare: Program) -> None:
    for open_it in (
        lambda: Store(sqlite_url, schema="t1"),
        lambda: Store(f"{sqlite_url}?schema=t1"),
        lambda: Store(engine=create_engine(sqlite_url), schema="t1"),
        lambda: AsyncStore(schema="t1"),
    ):
        with pytest.raises(InvalidInput, match="a SQLite database has no schemas: use a file for each"):
            open_it()
    for command in (["list"], ["db", "check"], ["db", "upgrade"], ["db", "backup", "x.db"]):
        bare(*command, "--db", sqlite_url, "--schema", "t1").failed(2, "a SQLite database has no schemas")
    assert not Path(make_url(sqlite_url).database or "").exists()


def test_messages_and_commands_name_the_schema_that_was_given(postgres_empty_url: str, bare: Program) -> None:
    bare.set(CONVSTORE_DB=postgres_empty_url)
    bare("db", "check", "--schema", "t1").failed(7, "schema=t1 has no convstore schema", "db upgrade --schema t1`")
    assert "schema=t1: schema none ->" in bare("db", "upgrade", "--schema", "t1").out
    assert "schema=t1: schema" in bare("db", "check", "--schema", "t1").out
    assert "schema=t1" in bare("db", "current", "--schema", "t1", "--json").out
    bare("db", "check").failed(7, "no convstore schema")


# --- costs ---


@contextmanager
def statements_of(store: Store) -> Iterator[list[str]]:
    sent: list[str] = []
    engine = engine_of(store)

    def note(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("schema", [None, "t1"])
def test_the_schema_costs_no_statement(tenants_url: str, chat_server: ChatServer, schema: str | None) -> None:
    with open_store(tenants_url, chat_server.url, schema=schema) as store:
        with statements_of(store) as sent:
            store.list()
        assert len(sent) == 4, sent  # three of them check the schema: where and which it is, and who may use it
        id = store.new(system="One").id
        with statements_of(store) as sent:
            store.say(id, "Hi")
        assert len(sent) == 10, sent
        assert all(f" {schema or 'public'}.convstore_" in statement for statement in sent if "convstore_" in statement)
        with engine_of(store).begin() as connection:
            view = store.using(connection)
            with statements_of(store) as sent:
                view.append(id, "More")
            assert len(sent) == 5, sent


def test_the_identity_of_a_database_includes_its_schema(tenants_url: str) -> None:
    stores = [
        Store(tenants_url),
        Store(tenants_url, schema="public"),
        Store(tenants_url, schema="t1"),
        Store(in_schema(tenants_url, "t1")),
    ]
    for store in stores:
        store.list()
    default, public, one, same = (store._engine.transactions.identity for store in stores)
    assert default == public != one == same
    assert Store(tenants_url)._engine.transactions.identity == default  # it need not look
    for store in stores:
        store.close()
