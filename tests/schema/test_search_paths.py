"""Test that no search path decides which tables a store uses: no setting, and no other client of a pooler."""

from __future__ import annotations

import pytest
from sqlalchemy import (
    create_engine,
    make_url,
    text,
)

from convstore import Store
from convstore.db import schema_upgrade
from convstore.errors import DatabaseUnavailable, SchemaOutdated
from convstore.testing import ChatServer
from tests.cli.program import Program
from tests.faults.clients import open_store
from tests.pooler import pooled
from tests.schema.tenants import (
    OURS,
    administered,
    execute,
    find_tables,
    in_schema,
    opened_database,
    with_path,
)

# --- through a pooler ---


def test_no_other_client_of_a_pooler_changes_which_tables_are_meant(tenants_url: str, chat_server: ChatServer) -> None:
    with Store(tenants_url) as store:
        store.new("Of public")
    with pooled(tenants_url) as through, administered(through) as hostile:
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
        assert find_tables(tenants_url)["t3"] >= OURS
        with Store(through, schema="t3") as new:
            assert new.list() == []
    with Store(tenants_url, schema="t2") as two:
        assert len(two.list()) == 4


# --- settings ---


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
        bare("db", "check").failed(7, "no convstore schema in its current schema 't1' and this release needs")
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
def test_a_search_path_without_a_schema_for_tables_is_a_named_error(tenants_url: str, path: str) -> None:
    tenants_url = with_path(tenants_url, path)
    with opened_database(tenants_url) as database:
        for use in (schema_upgrade.state, schema_upgrade.ensure_schema, schema_upgrade.upgrade_database):
            with pytest.raises(DatabaseUnavailable, match="no current schema: the search path names no schema"):
                use(database)
    engine = create_engine(tenants_url)
    with Store(tenants_url) as store, engine.connect() as connection:
        for call in (store.list, store.using(connection).list):
            with pytest.raises(DatabaseUnavailable, match="no current schema"):
                call()
    engine.dispose()
    with Store(tenants_url, schema="t1") as store:
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
