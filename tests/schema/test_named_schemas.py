"""Test stores that share a PostgreSQL database, each with its tables in one schema.

No search path decides which tables a statement means: neither that of the role, the database or the URL, nor one that
another client of a pooler has set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    event,
    make_url,
    select,
    text,
)
from sqlalchemy.ext.asyncio import create_async_engine

from convstore import AsyncStore, Store
from convstore.db import schema_upgrade, verification
from convstore.db.engine import Database, open_database, parse_url
from convstore.db.postgres_schema import take_schema
from convstore.db.tables import VERSION_TABLE, Base
from convstore.errors import ConversationNotFound, DatabaseUnavailable, InvalidInput, SchemaOutdated
from convstore.testing import ChatServer
from tests.cli.program import Program
from tests.faults.clients import open_store
from tests.faults.driven import engine_of, opened
from tests.pooler import pooled
from tests.schema.old.kept import OLDER, Old, restored
from tests.schema.support import CHECKOUT, check_drift, run, upgrades
from tests.schema.test_old_files import assert_nothing_lost

OURS = {*Base.metadata.tables, VERSION_TABLE}


def in_schema(url: str, schema: str) -> str:
    return make_url(url).update_query_dict({"schema": schema}).render_as_string(hide_password=False)


def with_path(url: str, path: str) -> str:
    """Return the URL with a search path that holds from the start of each connection."""
    return make_url(url).update_query_dict({"options": f"-csearch_path={path}"}).render_as_string(hide_password=False)


@contextmanager
def administered(url: str) -> Iterator[Connection]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def execute(url: str, *statements: str) -> None:
    with administered(url) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def find_tables(url: str) -> dict[str, set[str]]:
    """Return the names of tables, indexes and constraints by schema, except PostgreSQL's own."""
    found: dict[str, set[str]] = {}
    with administered(url) as connection:
        for schema, name in connection.execute(
            text(
                "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"
            )
        ):
            found.setdefault(schema, set()).add(name)
    return found


@pytest.fixture
def url(postgres_empty_url: str) -> str:
    """Return a database with convstore's tables in the schemas `t1` and `t2` and in `public`."""
    for schema in ("t1", "t2", "public"):
        schema_upgrade.upgrade(postgres_empty_url, schema)
    return postgres_empty_url


# --- two tenants ---


def fill_with(store: Store, mark: str) -> None:
    """Do the same for each tenant; only the texts differ."""
    store.new(mark, id="same-id", name="same-name", system=mark, metadata={"mark": mark})
    store.say("same-id", f"{mark} says", idempotency_key="key")
    store.say("same-id", f"{mark} says", idempotency_key="key")
    store.append("same-id", {"role": "user", "content": f"{mark} adds"})
    store.undo("same-id")
    store.fork("same-id", name="fork")
    store.say(store.get("fork").id, f"{mark} goes on")
    store.new(f"{mark} deleted", id="deleted")
    store.delete("deleted")
    store.new(f"{mark} alone", id=f"only-{mark}")


def assert_only(store: Store, mark: str, other: str) -> None:
    assert [found.title for found in store.list(deleted=True)] == [f"{mark} deleted"]
    assert len(store.list(limit=None)) == 3
    assert store.get("same-").title == store.get("same-name").title == mark
    assert store.get("same-name").metadata == {"mark": mark}
    texts = [mark, f"{mark} says", f"You said: {mark} says", f"{mark} goes on", f"You said: {mark} goes on"]
    assert [message["content"] for message in store.history(store.get("fork").id)] == texts
    assert [message["content"] for message in store.history("same-id")] == texts[:3]
    assert len(store.turns("same-id")) == 1
    assert store.usage().total.turns == 2
    assert [row.turns for row in store.usage_by_owner().rows] == [2]
    assert store.get("only-").id == f"only-{mark}"
    with pytest.raises(ConversationNotFound):
        store.get(f"only-{other}")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_two_tenants_never_see_each_other(url: str, chat_server: ChatServer, kind: str) -> None:
    with opened(kind, url, chat_server, schema="t1") as one, opened(kind, in_schema(url, "t2"), chat_server) as two:
        fill_with(one, "A")
        assert two.list() == []
        fill_with(two, "B")
        assert_only(one, "A", "B")
        assert_only(two, "B", "A")
        one.delete("same-id")
        assert_only_is_deleted(one)
        assert_only(two, "B", "A")
    with opened(kind, url, chat_server) as third:
        assert third.list() == third.list(deleted=True) == []
        assert third.usage_by_owner().total.turns == 0


def assert_only_is_deleted(store: Store) -> None:
    with pytest.raises(ConversationNotFound):
        store.history("same-id")


def test_two_tenants_may_share_one_engine_of_the_caller(url: str, chat_server: ChatServer) -> None:
    engine = create_engine(url, pool_size=1, max_overflow=0)
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
    url: str, bare: Program, chat_server: ChatServer
) -> None:
    bare.set(CONVSTORE_DB=url, OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="test-model")
    for schema in ("t1", "t2"):
        assert bare("new", f"Of {schema}", "--name", "same", "--schema", schema).code == 0
        assert bare("say", "-c", "same", f"{schema} speaks", "--schema", schema).code == 0
    assert bare("new", "Of t1 alone", "--name", "alone", "--schema", "t1").code == 0
    assert "t1 speaks" in bare("show", "same", "--schema", "t1").out
    assert "t2 speaks" in bare("show", "same", "--db", in_schema(url, "t2")).out
    assert bare("show", "alone", "--schema", "t2").code == 3
    assert bare("show", "same").code == 3
    assert bare("list").out == ""
    assert "2 conversations, 2 messages, 1 turn, no damage" in bare("db", "verify", "--schema", "t1").out
    assert "1 conversation, 2 messages, 1 turn, no damage" in bare("db", "verify", "--schema", "t2").out
    assert "0 conversations" in bare("db", "verify").out
    assert "1 conversation, 2 messages" in bare("db", "verify", "same", "--schema", "t1").out
    assert bare("usage", "--by", "owner", "--json", "--schema", "t1").out.count('"turns": 1') == 2
    bare.set(CONVSTORE_DB=in_schema(url, "t1"))
    assert "Of t1 alone" in bare("list").out
    assert "?" in bare("db", "check").out
    assert "schema=t1: schema" in bare("db", "check").out.replace("&schema", "?schema").replace("?schema", "schema")


def test_a_check_of_rows_sees_only_its_schema(url: str) -> None:
    with Store(url, schema="t1") as one, Store(url, schema="t2") as two:
        one.append(one.new().id, "One", "Two")
        two.append(two.new().id, "Three")
        with administered(url) as connection:
            connection.execute(text("UPDATE t2.convstore_messages SET content = 'other'"))
        databases = [store._engine.transactions.database for store in (one, two)]
        assert [len(verification.verify(it, None, lambda _: None).damages) for it in databases] == [0, 1]


# --- a caller's transaction ---

MINE = Table("mine", MetaData(), Column("number", Integer))
COUNT_MINE = select(MINE.c.number)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Yield an application's engine; its table `mine` is in two schemas."""
    execute(url, "CREATE SCHEMA app", "CREATE TABLE app.mine (number int)", "CREATE TABLE public.mine (number int)")
    execute(url, "INSERT INTO app.mine VALUES (1)", "INSERT INTO public.mine VALUES (2)")
    made = create_engine(url)
    yield made
    made.dispose()


def test_a_callers_transaction_uses_the_schema_of_each_store(url: str, engine: Engine) -> None:
    with Store(url, schema="t1") as one, Store(engine=engine, schema="t2") as two, Store(engine=engine) as third:
        for is_used in (False, True):  # before and after the stores know their schemas
            with engine.begin() as connection:
                views = [store.using(connection) for store in (one, two, third)]
                for number, view in enumerate(views):
                    view.new(f"Of {number}", id=f"same-{is_used}", system="Hi")
                    assert connection.scalars(COUNT_MINE).all() == [2]
                for number, view in enumerate(views):
                    assert view.get(f"same-{is_used}").title == f"Of {number}"
                    view.append(f"same-{is_used}", f"more of {number}")
                    assert view.history(f"same-{is_used}")[-1]["content"] == f"more of {number}"
                    assert len(view.list()) == 1 + is_used
                assert connection.scalars(COUNT_MINE).all() == [2]
            for number, store in enumerate((one, two, third)):
                assert [found.title for found in store.list()] == [f"Of {number}"] * (1 + is_used)


@pytest.mark.parametrize("own", [{None: "app"}, {None: "app", "x": "public"}, {"x": "app"}])
def test_a_callers_own_schemas_hold_again_after_each_call(engine: Engine, own: dict[Any, str]) -> None:
    with Store(engine=engine, schema="t1") as store, engine.connect() as connection:
        connection.execution_options(schema_translate_map=own)
        view = store.using(connection)
        number = 1 if own.get(None) == "app" else 2
        for _ in range(2):
            view.new()
            assert connection.get_execution_options()["schema_translate_map"] == own
            assert connection.scalars(COUNT_MINE).all() == [number]
        with pytest.raises(ConversationNotFound):
            view.history("absent")
        assert connection.get_execution_options()["schema_translate_map"] == own
        assert connection.scalars(COUNT_MINE).all() == [number]
        connection.commit()
        assert len(store.list()) == 2


def test_a_connection_without_schemas_of_its_own_has_none_after_an_error(engine: Engine) -> None:
    with Store(engine=engine, schema="t1") as store, engine.connect() as connection:
        with pytest.raises(ConversationNotFound):
            store.using(connection).history("absent")
        assert connection.get_execution_options().get("schema_translate_map") is None
        assert connection.scalars(COUNT_MINE).all() == [2]


def test_the_schema_of_a_callers_engine_or_connection_is_the_stores(engine: Engine) -> None:
    """`schema_translate_map` is SQLAlchemy's own way to choose a schema for tables that name none."""
    chosen = engine.execution_options(schema_translate_map={None: "t2"})
    with Store(engine=chosen) as store, Store(engine=engine, schema="t1") as one, Store(engine=engine) as third:
        store.new("Of t2")
        with engine.begin() as connection:
            connection.execution_options(schema_translate_map={None: "t2"})
            assert [found.title for found in third.using(connection).list()] == ["Of t2"]
            assert one.using(connection).list() == []  # what the store was given comes first
        assert third.list() == []
    with Store(engine=chosen, schema="t1") as store:
        assert store.list() == []


def test_without_a_schema_a_strange_connection_means_its_current_one_at_the_first_call(
    url: str, postgres_server: str
) -> None:
    strange = create_engine(with_path(url, "t2,public"))
    with Store(postgres_server) as elsewhere, strange.begin() as connection:
        view = elsewhere.using(connection)
        view.new("Of t2")
        connection.execute(text("SET LOCAL search_path TO t1"))
        assert len(view.list()) == 1  # still t2
        assert elsewhere.using(connection).list() == []
    strange.dispose()
    with Store(url, schema="t2") as store:
        assert len(store.list()) == 1


def test_without_a_schema_the_connections_path_does_not_change_what_a_store_knows(url: str, engine: Engine) -> None:
    with Store(engine=engine) as store:
        store.new("Of public")
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL search_path TO t1"))
            assert [found.title for found in store.using(connection).list()] == ["Of public"]


def test_an_asynchronous_transaction_uses_the_schema_of_the_store(url: str) -> None:
    async def use() -> None:
        engine = create_async_engine(url)
        store, third = AsyncStore(url, schema="t1"), AsyncStore(url)
        async with engine.begin() as connection:
            view = store.using(connection)
            await view.new("Of t1", id="x")
            await view.append("x", "Hi")
            plain = third.using(connection)
            await plain.new("Of public", id="x")
            await connection.execute(text("SET LOCAL search_path TO t2"))
            assert [found.title for found in await plain.list()] == ["Of public"]  # read once
            assert (await connection.get_raw_connection()).driver_connection is not None
            assert (await connection.execute(text("SELECT count(*) FROM convstore_conversations"))).scalar() == 0
        assert [found.title for found in await store.list()] == ["Of t1"]
        assert [found.title for found in await third.list()] == ["Of public"]
        await engine.dispose()
        await store.close()
        await third.close()

    asyncio.run(use())


# --- through a pooler ---


def test_no_other_client_of_a_pooler_changes_which_tables_are_meant(url: str, chat_server: ChatServer) -> None:
    with Store(url) as store:
        store.new("Of public")
    with pooled(url) as through, administered(through) as hostile:
        process = hostile.scalar(text("SELECT pg_backend_pid()"))
        with (
            open_store(through, chat_server.url) as third,
            open_store(in_schema(through, "t1"), chat_server.url) as one,
            open_store(through, chat_server.url, schema="t2") as two,
        ):
            third.list()  # its first use, before anybody changes the path
            for path in ("t2", "t1", "nowhere", "pg_catalog"):
                hostile.exec_driver_sql(f"SET search_path TO {path}")
                with administered(through) as other:  # the setting leaks to others, through the one session
                    assert other.scalar(text("SHOW search_path")) == path
                    assert other.scalar(text("SELECT pg_backend_pid()")) == process
                for store in (one, two):
                    made = store.new(f"By {path}")
                    assert store.say(made.id, "Hi").text == "You said: Hi"
                    hostile.exec_driver_sql("SET search_path TO t2")
                    assert len(store.history(made.id)) == 2
                assert [found.title for found in third.list()] == ["Of public"]
            assert len(one.list()) == len(two.list()) == 4
            one.delete(one.list()[0].id)
        hostile.exec_driver_sql("SET search_path TO t2")
        with opened_database(in_schema(through, "t3")) as database:
            schema_upgrade.upgrade_database(database)
        assert hostile.scalar(text("SHOW search_path")) == "t2"  # the migration's own path ended with it
        assert find_tables(url)["t3"] >= OURS
        with Store(through, schema="t3") as new:
            assert new.list() == []
    with Store(url, schema="t2") as two:
        assert len(two.list()) == 4


@contextmanager
def opened_database(url: str) -> Iterator[Database]:
    database = open_database(url)
    yield database
    database.close()


# --- the search path ---


@pytest.mark.parametrize("way", ["URL", "role", "database"])
def test_tables_elsewhere_on_the_search_path_are_never_taken(postgres_empty_url: str, way: str, bare: Program) -> None:
    url = postgres_empty_url
    schema_upgrade.upgrade(url)
    with Store(url) as store:
        store.new("Of public")
    name = make_url(url).database
    role = f"role_{name}"
    execute(url, "CREATE SCHEMA t1")
    if way == "URL":
        url = with_path(url, "t1,public")
    elif way == "database":
        execute(url, f'ALTER DATABASE "{name}" SET search_path TO t1, public')
    else:
        execute(
            url,
            f'CREATE ROLE "{role}" LOGIN',
            f'ALTER ROLE "{role}" SET search_path TO "$user", t1, public',
            f'GRANT ALL ON SCHEMA t1 TO "{role}"',
            f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{role}"',
        )
        url = make_url(url).set(username=role).render_as_string(hide_password=False)
    try:
        bare.set(CONVSTORE_DB=url)
        bare("db", "check").failed(7, "no convstore schema")
        bare("list").failed(7, "no convstore schema")
        assert bare("db", "upgrade").code == 0
        assert find_tables(postgres_empty_url)["t1"] >= OURS
        assert find_tables(postgres_empty_url)["t1"] == find_tables(postgres_empty_url)["public"]
        assert bare("list").out == ""
        assert bare("new", "Of t1").code == 0
        with Store(url) as store, Store(postgres_empty_url, schema="public") as public:
            assert [found.title for found in store.list()] == ["Of t1"]
            assert [found.title for found in public.list()] == ["Of public"]
    finally:
        if way == "role":
            execute(postgres_empty_url, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


@pytest.mark.parametrize("path", ["nowhere", "''", "pg_catalog", "pg_temp"])
def test_a_search_path_without_a_schema_for_tables_is_a_named_error(url: str, path: str) -> None:
    url = with_path(url, path)
    with opened_database(url) as database:
        for use in (schema_upgrade.state, schema_upgrade.ensure_schema, schema_upgrade.upgrade_database):
            with pytest.raises(DatabaseUnavailable, match="no current schema: the search path names no schema"):
                use(database)
    engine = create_engine(url)
    with Store(url) as store, engine.connect() as connection:
        for call in (store.list, store.using(connection).list):
            with pytest.raises(DatabaseUnavailable, match="no current schema"):
                call()
    engine.dispose()
    with Store(url, schema="t1") as store:
        assert store.list() == []


def test_a_refused_store_takes_the_schema_that_is_current_when_it_works(postgres_empty_url: str) -> None:
    url = with_path(postgres_empty_url, "t1,public")
    with Store(url) as store:
        with pytest.raises(SchemaOutdated):
            store.list()
        schema_upgrade.upgrade(postgres_empty_url, "t1")
        assert store.list() == []
        store.new("Of t1")
    assert "public" not in find_tables(postgres_empty_url)


# --- upgrades ---


def test_an_upgrade_creates_the_schema_with_everything_in_it(postgres_empty_url: str) -> None:
    schema_upgrade.upgrade(postgres_empty_url, "t1")
    found = find_tables(postgres_empty_url)
    assert set(found) == {"t1"}
    assert found["t1"] >= OURS | {"convstore_messages_pkey", "convstore_conversations_owner_name_key"}
    check_drift(in_schema(postgres_empty_url, "t1"))
    assert "run `convstore db upgrade --schema 'a b'`" in _refusal(postgres_empty_url, "a b")
    schema_upgrade.upgrade(postgres_empty_url)
    assert find_tables(postgres_empty_url)["public"] == found["t1"]


def _refusal(url: str, schema: str) -> str:
    with Store(url, schema=schema) as store, pytest.raises(SchemaOutdated) as raised:
        store.list()
    return str(raised.value)


def test_many_processes_may_create_one_schema(postgres_empty_url: str) -> None:
    assert len(upgrades(in_schema(postgres_empty_url, "t1"), 4)) == 4
    assert set(find_tables(postgres_empty_url)) == {"t1"}


def test_a_role_that_may_not_create_schemas_upgrades_one_that_exists(postgres_empty_url: str) -> None:
    name = make_url(postgres_empty_url).database
    role = f"owner_{name}"
    execute(postgres_empty_url, f'CREATE ROLE "{role}" LOGIN', f'CREATE SCHEMA t1 AUTHORIZATION "{role}"')
    url = make_url(postgres_empty_url).set(username=role).render_as_string(hide_password=False)
    try:
        schema_upgrade.upgrade(url, "t1")
        with Store(url, schema="t1") as store:
            store.new()
        with pytest.raises(DatabaseUnavailable, match=r"schema=t2: permission denied"):
            schema_upgrade.upgrade(url, "t2")
    finally:
        execute(postgres_empty_url, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


@pytest.mark.parametrize("revision", OLDER)
def test_an_older_schema_is_upgraded_where_it_is(url: str, revision: str) -> None:
    before = find_tables(url)
    with Store(url, schema="t1") as store:
        store.new("Of t1")
    execute(url, "CREATE SCHEMA old")
    old = restored(revision, "sql", with_path(url, "old"))
    old = Old(revision, in_schema(url, "old"), old.read)
    with Store(old.url) as store, pytest.raises(SchemaOutdated, match=f"schema {revision}"):
        store.list()
    schema_upgrade.upgrade(old.url)
    with Store(old.url) as store:
        assert_nothing_lost(old, store)
        store.new("Of the old one")
    found = find_tables(url)
    assert found.pop("old") == before["t1"]
    assert found == before
    with Store(url, schema="t1") as store:
        assert [it.title for it in store.list()] == ["Of t1"]


@pytest.mark.parametrize("schema", ["t1", 'it\'s "a": b\\:c %(x)s'])
def test_plain_alembic_puts_everything_into_the_schema_of_the_url(postgres_empty_url: str, schema: str) -> None:
    url = in_schema(with_path(postgres_empty_url, "public"), schema)
    schema_upgrade.upgrade(postgres_empty_url, "public")
    before = find_tables(postgres_empty_url)["public"]
    arguments = ("-m", "alembic", "-x", f"db={url}")
    done = run(*arguments, "upgrade", "0002", cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    written = run(*arguments, "upgrade", "0002:head", "--sql", cwd=CHECKOUT)
    assert written.returncode == 0, written.stderr
    assert "CREATE SCHEMA" not in written.stdout
    _run_script(postgres_empty_url, written.stdout)
    checked = run(*arguments, "check", cwd=CHECKOUT)
    assert (checked.returncode, checked.stdout) == (0, "No new upgrade operations detected.\n"), checked.stderr
    with Store(url) as store:
        store.new()
    assert find_tables(postgres_empty_url) == {"public": before, schema: before}
    whole = run("-m", "alembic", "-x", f"db={in_schema(url, schema + '2')}", "upgrade", "head", "--sql", cwd=CHECKOUT)
    _run_script(postgres_empty_url, whole.stdout)
    assert find_tables(postgres_empty_url)[schema + "2"] == before


def test_written_sql_without_a_schema_changes_only_the_current_one(url: str) -> None:
    """Without it, an ALTER TABLE would find a table of another schema in the search path."""
    execute(url, "CREATE SCHEMA old")
    restored("0001", "sql", with_path(url, "old"))
    path = with_path(url, "old,public")
    written = run("-m", "alembic", "-x", f"db={path}", "upgrade", "0001:head", "--sql", cwd=CHECKOUT)
    before = find_tables(url)["public"]
    _run_script(path, written.stdout)
    assert find_tables(url)["old"] == find_tables(url)["public"] == before


def _run_script(url: str, script: str) -> None:
    with administered(url) as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute(script)


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


# --- costs, and what stays the same ---


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
def test_the_schema_costs_no_statement(url: str, chat_server: ChatServer, schema: str | None) -> None:
    with open_store(url, chat_server.url, schema=schema) as store:
        with statements_of(store) as sent:
            store.list()
        assert len(sent) == 4, sent  # three of them check the schema: where and which it is, and who may use it
        id = store.new(system="One").id
        with statements_of(store) as sent:
            store.say(id, "Hi")
        assert len(sent) == 8, sent
        assert all(f" {schema or 'public'}.convstore_" in statement for statement in sent if "convstore_" in statement)
        with engine_of(store).begin() as connection:
            view = store.using(connection)
            with statements_of(store) as sent:
                view.append(id, "More")
            assert len(sent) == 4, sent


def test_the_identity_of_a_database_includes_its_schema(url: str) -> None:
    stores = [Store(url), Store(url, schema="public"), Store(url, schema="t1"), Store(in_schema(url, "t1"))]
    for store in stores:
        store.list()
    default, public, one, same = (store._engine.transactions.identity for store in stores)
    assert default == public != one == same
    for store in stores:
        store.close()
