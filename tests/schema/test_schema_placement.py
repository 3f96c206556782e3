"""Test that upgrades put everything into one PostgreSQL schema, and touch no other."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    make_url,
)

from convstore import Store
from convstore.db import schema_upgrade
from convstore.errors import DatabaseUnavailable, SchemaOutdated
from tests.schema.old.kept import OLDER, Old, restored
from tests.schema.support import CHECKOUT, check_drift, run, upgrades
from tests.schema.tenants import (
    OURS,
    administered,
    execute,
    find_tables,
    in_schema,
    with_path,
)
from tests.schema.test_old_files import assert_nothing_lost


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
def test_an_older_schema_is_upgraded_where_it_is(tenants_url: str, revision: str) -> None:
    before = find_tables(tenants_url)
    with Store(tenants_url, schema="t1") as store:
        store.new("Of t1")
    execute(tenants_url, "CREATE SCHEMA old")
    old = restored(revision, "sql", with_path(tenants_url, "old"))
    old = Old(revision, in_schema(tenants_url, "old"), old.read)
    with Store(old.url) as store, pytest.raises(SchemaOutdated, match=f"schema {revision}"):
        store.list()
    schema_upgrade.upgrade(old.url)
    with Store(old.url) as store:
        assert_nothing_lost(old, store)
        store.new("Of the old one")
    found = find_tables(tenants_url)
    assert found.pop("old") == before["t1"]
    assert found == before
    with Store(tenants_url, schema="t1") as store:
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


def test_written_sql_without_a_schema_changes_only_the_current_one(tenants_url: str) -> None:
    """Without it, an ALTER TABLE would find a table of another schema in the search path."""
    execute(tenants_url, "CREATE SCHEMA old")
    restored("0001", "sql", with_path(tenants_url, "old"))
    path = with_path(tenants_url, "old,public")
    written = run("-m", "alembic", "-x", f"db={path}", "upgrade", "0001:head", "--sql", cwd=CHECKOUT)
    before = find_tables(tenants_url)["public"]
    _run_script(path, written.stdout)
    assert find_tables(tenants_url)["old"] == find_tables(tenants_url)["public"] == before


def _run_script(url: str, script: str) -> None:
    with administered(url) as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute(script)
