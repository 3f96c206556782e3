"""Test migrations of a database in use: they happen as a whole or not at all, and lose no row."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from convstore import Store
from convstore.db import schema_upgrade
from convstore.errors import DatabaseUnavailable
from tests.schema.support import contents, copy_of_migrations, fill, migrate, opened, revision_after

REBUILD = """
def upgrade():
    for table in ("convstore_conversations", "convstore_messages"):
        with op.batch_alter_table(table, recreate="always") as batch:
            batch.add_column(sa.Column("colour", sa.Text))
"""


def test_a_batch_migration_of_a_full_sqlite_database_loses_no_row(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url, conversations=100, messages=20)
    before = contents(sqlite_url)
    assert len(before["convstore_messages"][1]) == 100 * 22
    assert len(before["convstore_turns"][1]) == 100
    with opened(sqlite_url) as database, database.read() as connection:
        indexes = set(
            connection.plain.scalars(text("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql NOTNULL"))
        )

    migrate(sqlite_url, copy_of_migrations(tmp_path, REBUILD))

    after = contents(sqlite_url)
    for table in ("convstore_conversations", "convstore_messages"):
        columns, rows = after[table]
        assert columns == [*before[table][0], "colour"]
        assert [row[:-1] for row in rows] == before[table][1]
    assert after["convstore_turns"] == before["convstore_turns"]
    assert after["convstore_version"][1] == [(revision_after(schema_upgrade.HEAD),)]
    with opened(sqlite_url) as database:
        with database.read() as connection:
            assert connection.plain.exec_driver_sql("PRAGMA foreign_key_check").all() == []
            assert indexes == set(
                connection.plain.scalars(text("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql NOTNULL"))
            )
        for statement in (
            "DELETE FROM convstore_conversations",
            "UPDATE convstore_messages SET conversation_id = 'not ' || conversation_id",
            "UPDATE convstore_turns SET conversation_id = 'not ' || conversation_id",
        ):
            with pytest.raises(IntegrityError, match="FOREIGN KEY"), database.write() as connection:
                connection.execute(text(statement))
    with Store(sqlite_url) as store:  # the schema is newer than this release, and says that this release may use it
        assert len(store.list(limit=None)) == 50
        store.append(store.get("name-0").id, "More")


def test_foreign_keys_hold_again_after_a_migration_on_the_same_connection(sqlite_url: str) -> None:
    with opened(sqlite_url) as database:
        schema_upgrade.upgrade_database(database)
        with schema_upgrade.migrating(database.engine) as connection:
            driver = connection.connection.driver_connection
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 0
        with database.engine.connect() as connection:
            assert connection.connection.driver_connection is driver
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


HALF = """
def upgrade():
    op.create_table("convstore_half", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("UPDATE convstore_conversations SET title = 'half'")
    with op.batch_alter_table("convstore_turns", recreate="auto") as batch:
        batch.drop_column("usage")
    raise RuntimeError("half-way")
"""


def test_a_migration_that_fails_half_way_leaves_the_database_as_it_was(database_url: str, tmp_path: Path) -> None:
    fill(database_url)
    before = contents(database_url)
    with pytest.raises(RuntimeError, match="half-way"):
        migrate(database_url, copy_of_migrations(tmp_path, HALF))
    assert contents(database_url) == before
    with Store(database_url) as store:
        store.new("Afterwards")


def test_if_the_second_migration_fails_the_first_is_undone_too(database_url: str, tmp_path: Path) -> None:
    fill(database_url, conversations=2)
    before = contents(database_url)
    first = "def upgrade():\n    op.create_table('convstore_first', sa.Column('id', sa.Integer))"
    migrations = copy_of_migrations(tmp_path, first, "def upgrade():\n    raise RuntimeError('second')")
    with pytest.raises(RuntimeError, match="second"):
        migrate(database_url, migrations)
    assert contents(database_url) == before


def test_a_migration_that_would_orphan_rows_is_refused(database_url: str, tmp_path: Path) -> None:
    fill(database_url)
    before = contents(database_url)
    orphan = "def upgrade():\n    op.execute(\"DELETE FROM convstore_conversations WHERE name = 'name-3'\")"
    refused = DatabaseUnavailable if database_url.startswith("sqlite") else IntegrityError
    with pytest.raises(refused, match=r"without a parent|foreign key"):
        migrate(database_url, copy_of_migrations(tmp_path, orphan))
    assert contents(database_url) == before
