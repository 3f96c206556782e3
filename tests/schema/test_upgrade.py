"""Test every way to an upgrade, who may use it, and many upgrades at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from convstore import Store
from convstore.db import schema_upgrade
from convstore.db.engine import Database
from convstore.db.tables import VERSION_TABLE, metadata
from convstore.errors import SchemaOutdated, SchemaTooNew
from tests.schema.support import CHECKOUT, contents, fill, first_uses, migrate, opened, ours, run, upgrades

OLDER = [f"{number:04}" for number in range(1, int(schema_upgrade.HEAD))]
OURS = {*metadata.tables, VERSION_TABLE}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """Return an empty database, on each backend in turn."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_empty_url")
    return url


# --- the ways to an upgrade ---


def test_plain_alembic_upgrades_the_database_of_the_environment(empty_url: str) -> None:
    done = run("-m", "alembic", "upgrade", "head", cwd=CHECKOUT, new=True, CONVSTORE_DB=empty_url)
    assert done.returncode == 0, done.stderr
    checked = run("-m", "alembic", "check", cwd=CHECKOUT, CONVSTORE_DB=empty_url)
    assert (checked.returncode, checked.stdout) == (0, "No new upgrade operations detected.\n"), checked.stderr
    assert ours(contents(empty_url)) == OURS
    fill(empty_url, conversations=2)


def test_plain_alembic_upgrades_the_named_database_from_any_folder(empty_url: str, tmp_path: Path) -> None:
    ini = str(CHECKOUT / "alembic.ini")
    elsewhere = str(tmp_path / "not-this.db")
    done = run(
        "-m", "alembic", "-c", ini, "-x", f"db={empty_url}", "upgrade", "head", cwd=tmp_path, CONVSTORE_DB=elsewhere
    )
    assert done.returncode == 0, done.stderr
    assert ours(contents(empty_url)) == OURS
    assert not Path(elsewhere).exists()


def test_the_sql_that_alembic_writes_makes_the_schema(empty_url: str) -> None:
    written = run("-m", "alembic", "upgrade", "head", "--sql", cwd=CHECKOUT, CONVSTORE_DB=empty_url)
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("BEGIN;")
    assert written.stdout.rstrip().endswith("COMMIT;")
    if empty_url.startswith("sqlite"):
        assert not Path(make_url(empty_url).database or "").exists()  # it was only printed
    with opened(empty_url) as database, database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        if database.is_sqlite:
            driver.executescript(written.stdout)
        else:
            driver.autocommit = True
            driver.execute(written.stdout)
    with opened(empty_url) as database:
        assert schema_upgrade.state(database) == schema_upgrade.SchemaState(schema_upgrade.HEAD, "0001")
    fill(empty_url, conversations=2)


def test_the_command_upgrades_and_prints_what_it_did(empty_url: str, tmp_path: Path) -> None:
    done = run("-m", "convstore", "db", "upgrade", cwd=tmp_path, new=True, CONVSTORE_DB=empty_url)
    assert done.returncode == 0, done.stderr
    assert f"schema none -> {schema_upgrade.HEAD}" in done.stdout
    again = run("-m", "convstore", "db", "upgrade", cwd=tmp_path, CONVSTORE_DB=empty_url)
    assert f"schema {schema_upgrade.HEAD}, nothing to do" in again.stdout
    assert ours(contents(empty_url)) == OURS


def test_the_function_upgrades_and_the_second_call_does_nothing(empty_url: str) -> None:
    schema_upgrade.upgrade(empty_url)
    fill(empty_url, conversations=2)
    before = contents(empty_url)
    schema_upgrade.upgrade(empty_url)
    assert contents(empty_url) == before


# --- many upgrades at once ---


def test_sixteen_processes_may_be_the_first_to_use_a_file(sqlite_url: str) -> None:
    assert len(first_uses(sqlite_url, 16)) == 16
    with Store(sqlite_url) as store:
        assert [found.length for found in store.list(limit=None)] == [1] * 16


def test_sixteen_threads_may_be_the_first_to_use_a_file_each_with_a_store(sqlite_url: str) -> None:
    start = threading.Barrier(16)

    def first_use(_: int) -> None:
        with Store(sqlite_url) as store:
            start.wait(60)
            made = store.new("First")
            store.append(made.id, "Hello")

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(first_use, range(16)))
    with Store(sqlite_url) as store:
        assert [found.length for found in store.list(limit=None)] == [1] * 16


def test_threads_may_make_databases_in_different_folders_at_once(tmp_path: Path) -> None:
    """Alembic keeps its state in modules: two upgrades at once would use each other's connection."""
    start = threading.Barrier(8)

    def first_use(number: int) -> int:
        folder = tmp_path / str(number)
        folder.mkdir()
        with Store(folder / "chat.db") as store:
            start.wait(60)
            store.new(f"Number {number}")
            return len(store.list())

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(first_use, range(8))) == [1] * 8


def test_many_processes_may_upgrade_one_postgresql_database(postgres_empty_url: str) -> None:
    assert len(upgrades(postgres_empty_url, 8)) == 8
    assert contents(postgres_empty_url)[VERSION_TABLE][1] == [(schema_upgrade.HEAD,)]


def test_an_upgrade_waits_for_a_running_one(postgres_empty_url: str) -> None:
    with opened(postgres_empty_url) as first, opened(postgres_empty_url) as watcher:
        with ThreadPoolExecutor(1) as threads:
            with schema_upgrade.migrating(first.engine):
                second = threads.submit(schema_upgrade.upgrade, postgres_empty_url)
                while not _waits_for_lock(watcher):
                    assert not second.done()
            second.result(60)
        assert schema_upgrade.state(first).up_to_date


def _waits_for_lock(database: Database) -> bool:
    with database.read() as connection:
        return bool(
            connection.scalar(
                text(
                    "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
                    " WHERE locktype = 'advisory' AND NOT granted AND d.datname = current_database()"
                )
            )
        )


# --- who upgrades, and who only reads ---


def test_postgresql_never_upgrades_itself(postgres_empty_url: str) -> None:
    with Store(postgres_empty_url) as store, pytest.raises(SchemaOutdated, match="run `convstore db upgrade`"):
        store.new("Too early")
    assert contents(postgres_empty_url) == {}
    schema_upgrade.upgrade(postgres_empty_url)
    with Store(postgres_empty_url) as store:
        store.new("Now")


def test_a_refused_store_works_as_soon_as_the_database_is_upgraded(postgres_empty_url: str) -> None:
    with Store(postgres_empty_url) as store:
        with pytest.raises(SchemaOutdated):
            store.list()
        schema_upgrade.upgrade(postgres_empty_url)
        assert store.list() == []


@pytest.mark.parametrize("form", ["sqlite:///{}", "{}", "sqlite:///file:{}?uri=true"])
def test_a_check_creates_no_file(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    url = form.format(folder / "chat.db")
    with opened(url) as database:
        assert schema_upgrade.state(database) == schema_upgrade.SchemaState(None, None)
    Store(url).close()
    current = run("-m", "convstore", "db", "current", cwd=tmp_path, CONVSTORE_DB=url)
    assert (current.returncode, current.stdout) == (0, "none\n")
    checked = run("-m", "convstore", "db", "check", cwd=tmp_path, CONVSTORE_DB=url)
    assert (checked.returncode, checked.stdout) == (7, "")
    assert "convstore db upgrade" in checked.stderr
    assert list(folder.iterdir()) == []


def test_a_check_changes_nothing_on_postgresql(postgres_empty_url: str, tmp_path: Path) -> None:
    current = run("-m", "convstore", "db", "current", cwd=tmp_path, CONVSTORE_DB=postgres_empty_url)
    assert (current.returncode, current.stdout) == (0, "none\n")
    assert run("-m", "convstore", "db", "check", cwd=tmp_path, CONVSTORE_DB=postgres_empty_url).returncode == 7
    assert contents(postgres_empty_url) == {}


def test_the_check_at_first_use_does_not_import_alembic(database_url: str, tmp_path: Path) -> None:
    schema_upgrade.upgrade(database_url)
    program = "import sys; from convstore import Store; Store().list(); print('alembic' in sys.modules)"
    done = run("-c", program, cwd=tmp_path, CONVSTORE_DB=database_url)
    assert done.stdout == "False\n", done.stderr


# --- other releases ---


@pytest.mark.parametrize("revision", OLDER)
def test_an_upgrade_keeps_every_row_of_an_older_release(database_url: str, revision: str) -> None:
    fill(database_url)
    migrate(database_url, to=revision, down=True)
    before = contents(database_url)
    assert before[VERSION_TABLE][1] == [(revision,)]
    with Store(database_url) as store:
        if not database_url.startswith("sqlite"):  # a SQLite file upgrades itself
            with pytest.raises(SchemaOutdated, match=f"schema {revision}.*convstore db upgrade"):
                store.list()
            assert contents(database_url) == before
            schema_upgrade.upgrade(database_url)
        assert len(store.list(limit=None)) == 10
        after = contents(database_url)
        assert after.pop(VERSION_TABLE)[1] == [(schema_upgrade.HEAD,)]
        for table, (columns, rows) in before.items():
            if table != VERSION_TABLE:
                assert _only(after[table], columns) == rows, table
        made = store.get("name-0").id
        assert store.append(made, "More")[0].position == 8
        assert [turn.attempts for turn in store.turns(made)] == [()]


def _only(table: tuple[list[str], list[tuple[Any, ...]]], columns: list[str]) -> list[tuple[Any, ...]]:
    places = [table[0].index(column) for column in columns]
    return sorted((tuple(row[place] for place in places) for row in table[1]), key=repr)


def _pretend(url: str, current: str, minimum: str) -> None:
    schema_upgrade.upgrade(url)
    with opened(url) as database, database.write() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = :it"), {"it": current})
        connection.execute(text("UPDATE convstore_compatibility SET minimum_version = :it"), {"it": minimum})


def test_a_newer_schema_that_this_release_may_use_is_used_unchanged(database_url: str) -> None:
    _pretend(database_url, "0999", minimum=schema_upgrade.HEAD)
    fill(database_url, conversations=2)
    with opened(database_url) as database:
        assert schema_upgrade.upgrade_database(database) == schema_upgrade.SchemaState("0999", schema_upgrade.HEAD)
    assert contents(database_url)[VERSION_TABLE][1] == [("0999",)]


def test_a_newer_schema_that_this_release_may_not_use_is_refused_and_not_changed(database_url: str) -> None:
    fill(database_url, conversations=2)
    _pretend(database_url, "0999", minimum="0998")
    before = contents(database_url)
    with Store(database_url) as store:
        for use in (lambda: store.new("No"), store.list):
            with pytest.raises(SchemaTooNew, match="upgrade convstore") as raised:
                use()
    assert "0999" in str(raised.value)
    with pytest.raises(SchemaTooNew):
        schema_upgrade.upgrade(database_url)
    assert contents(database_url) == before


def test_roles_may_do_with_later_tables_what_they_may_do_with_earlier_ones(postgres_empty_url: str) -> None:
    role = f"clerk_{make_url(postgres_empty_url).database}"
    migrate(postgres_empty_url, to="0005")
    with opened(postgres_empty_url) as database:
        with database.write() as connection:
            connection.execute(text(f'CREATE ROLE "{role}" LOGIN'))
            connection.execute(text(f'GRANT SELECT, INSERT, UPDATE ON convstore_turns TO "{role}"'))
            connection.execute(text("GRANT SELECT ON convstore_turns TO PUBLIC"))
            connection.execute(text(f'GRANT SELECT, INSERT, DELETE ON convstore_deltas TO "{role}"'))
            connection.execute(text(f'GRANT SELECT, UPDATE ON convstore_conversations TO "{role}"'))
        try:
            schema_upgrade.upgrade(postgres_empty_url)
            with database.read() as connection:
                granted = connection.execute(
                    text(
                        "SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants"
                        " WHERE table_name NOT IN ('convstore_turns', 'convstore_deltas', 'convstore_conversations')"
                        " AND table_schema = 'public' AND grantee <> grantor"
                    )
                )
                rights = {(role, "SELECT"), (role, "INSERT"), (role, "UPDATE"), ("PUBLIC", "SELECT")}
                later = ("convstore_daily_usage", "convstore_search_documents", "convstore_search_backlog")
                expected = {(table, *right) for table in later for right in rights}
                expected |= {
                    (f"convstore_{table}", role, right)
                    for table in ("tags", "ratings", "tombstones", "redactions", "retention", "erasures")
                    for right in ("SELECT", "INSERT", "DELETE")
                }
                expected |= {
                    (f"convstore_{table}", role, right)
                    for table in ("api_keys", "client_requests")
                    for right in ("SELECT", "UPDATE", "DELETE")
                }
                assert {tuple(row) for row in granted} == expected
        finally:
            with database.write() as connection:
                connection.execute(text(f'DROP OWNED BY "{role}"'))
                connection.execute(text(f'DROP ROLE "{role}"'))
