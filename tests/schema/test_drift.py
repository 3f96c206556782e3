"""Test that the migrations make exactly the models, and touch only convstore's tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from convstore import Store
from convstore.db import schema_upgrade
from convstore.db.models import Base, ConversationRow, MessageRow
from convstore.db.search_index import TERMS_TABLE
from convstore.db.tables import VERSION_TABLE
from tests.postgres import new_database
from tests.schema.support import application_tables, check_drift, contents, fill, migrate, opened, ours

KEY_COLUMNS = {
    ("convstore_conversations", "owner"),
    ("convstore_conversations", "id"),
    ("convstore_conversations", "name"),
    ("convstore_messages", "owner"),
    ("convstore_messages", "conversation_id"),
    ("convstore_messages", "item_id"),
    ("convstore_turns", "owner"),
    ("convstore_turns", "conversation_id"),
    ("convstore_turns", "idempotency_key"),
    ("convstore_deltas", "owner"),
    ("convstore_deltas", "conversation_id"),
    ("convstore_summaries", "owner"),
    ("convstore_summaries", "conversation_id"),
    ("convstore_attachments", "owner"),
    ("convstore_daily_usage", "owner"),
    ("convstore_daily_usage", "day"),
    ("convstore_search_documents", "owner"),
    ("convstore_search_documents", "conversation_id"),
    ("convstore_search_backlog", "owner"),
    ("convstore_search_backlog", "conversation_id"),
    ("convstore_tags", "owner"),
    ("convstore_tags", "conversation_id"),
    ("convstore_tags", "tag"),
    ("convstore_ratings", "owner"),
    ("convstore_ratings", "conversation_id"),
    ("convstore_tombstones", "owner"),
    ("convstore_tombstones", "conversation_id"),
    ("convstore_redactions", "owner"),
    ("convstore_redactions", "conversation_id"),
    ("convstore_retention", "owner"),
    ("convstore_retention", "covers"),
    ("convstore_api_keys", "id"),
    ("convstore_api_keys", "owner"),
    ("convstore_api_keys", "acts_for"),
    ("convstore_client_requests", "owner"),
    ("convstore_client_requests", "conversation_id"),
    ("convstore_client_requests", "response_id"),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """Return an empty database, on each backend in turn."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_empty_url")
    return url


@pytest.fixture
def second_url(request: pytest.FixtureRequest, empty_url: str, tmp_path: Path) -> Iterator[str]:
    """Return a second empty database on the same backend."""
    if empty_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path}/second.db"
    else:
        with new_database(request.getfixturevalue("postgres_server")) as url:
            yield url


def test_the_release_writes_the_schema_of_its_last_migration() -> None:
    assert ScriptDirectory.from_config(schema_upgrade.alembic_config()).get_heads() == [schema_upgrade.HEAD]


def test_every_revision_is_a_number_and_follows_the_one_before() -> None:
    revisions = list(ScriptDirectory.from_config(schema_upgrade.alembic_config()).walk_revisions())
    assert [script.revision for script in reversed(revisions)] == [f"{n + 1:04}" for n in range(len(revisions))]


def test_alembic_sees_no_difference_between_models_and_migrations(empty_url: str) -> None:
    schema_upgrade.upgrade(empty_url)
    check_drift(empty_url)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE convstore_turns ADD COLUMN colour TEXT",
        "DROP INDEX convstore_conversations_owner_name_key",
        "CREATE INDEX stray ON convstore_messages (role)",
    ],
)
def test_alembic_sees_a_difference_if_one_exists(empty_url: str, change: str) -> None:
    schema_upgrade.upgrade(empty_url)
    with opened(empty_url) as database, database.write() as connection:
        connection.execute(text(change))
    with pytest.raises(CommandError, match="New upgrade operations detected"):
        check_drift(empty_url)


def test_migrations_make_the_same_columns_as_the_models(empty_url: str, second_url: str) -> None:
    """It compares collations, constraints and their names too, which Alembic does not; not the columns' order."""
    schema_upgrade.upgrade(empty_url)
    with opened(second_url) as database, database.write() as connection:
        Base.metadata.create_all(connection.plain)
    migrated, modelled = _structure(empty_url), _structure(second_url)
    assert {table for table, *_ in modelled} == set(Base.metadata.tables)
    assert [row for row in migrated if row[0] != VERSION_TABLE] == modelled


def _structure(url: str) -> list[tuple[Any, ...]]:
    with opened(url) as database, database.read() as connection:
        if not database.is_sqlite:
            rows = [tuple(row) for row in connection.execute(text(_POSTGRES_STRUCTURE))]
        else:
            rows = [
                tuple(row)
                for part, facts in _SQLITE_STRUCTURE.items()
                for row in connection.execute(
                    text(f"SELECT m.name, '{part}', {facts} FROM sqlite_master m, pragma_{part}(m.name) p")
                )
                if not row[0].startswith(TERMS_TABLE)  # no model: SQLite makes it, and tables of its own beside it
            ]
            rows += [
                (row.tbl_name, row.name, " ".join(row.sql.split()) if row.sql else None)
                for row in connection.execute(text("SELECT * FROM sqlite_master WHERE type = 'index'"))
            ]
            rows += [
                (row.name, "constraint", line.strip().strip(","))
                for row in connection.execute(text("SELECT * FROM sqlite_master WHERE type = 'table'"))
                for line in row.sql.splitlines()
                if "CONSTRAINT" in line
            ]
    return sorted(rows, key=repr)


# A column that a migration adds comes last in its table, at any place in its model.
_SQLITE_STRUCTURE = {
    "table_xinfo": """p.name, p.type, p."notnull", p.dflt_value, p.pk, p.hidden""",
    "foreign_key_list": "p.*",
}
_POSTGRES_STRUCTURE = """
    SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           coll.collname::text, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_collation coll ON coll.oid = a.attcollation
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), NULL, NULL, NULL
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT tablename::text, indexname::text, indexdef, NULL, NULL, NULL FROM pg_indexes WHERE schemaname = 'public'
"""


def test_keys_compare_bytewise_on_postgresql(postgres_url: str) -> None:
    with opened(postgres_url) as database, database.read() as connection:
        found = connection.execute(
            text(
                "SELECT a.attrelid::regclass::text, a.attname::text FROM pg_attribute a"
                " JOIN pg_collation c ON c.oid = a.attcollation WHERE c.collname = 'C'"
                " AND a.attrelid::regclass::text LIKE 'convstore%' AND a.attnum > 0"
                " AND (SELECT relkind FROM pg_class WHERE oid = a.attrelid) = 'r'"
            )
        )
        assert {tuple(row) for row in found} == KEY_COLUMNS


def test_an_applications_tables_are_neither_touched_nor_reported(empty_url: str) -> None:
    application_tables(empty_url)
    before = contents(empty_url)
    schema_upgrade.upgrade(empty_url)
    check_drift(empty_url)
    fill(empty_url, conversations=2)
    after = contents(empty_url)
    assert ours(after) == {*Base.metadata.tables, VERSION_TABLE}
    assert {name: after[name] for name in before} == before
    migrate(empty_url, to="base", down=True)
    emptied = contents(empty_url)
    assert {name: emptied[name] for name in before} == before
    assert ours(emptied) == {VERSION_TABLE}


def test_a_downgraded_schema_can_be_upgraded_again(empty_url: str) -> None:
    schema_upgrade.upgrade(empty_url)
    structure = _structure(empty_url)
    migrate(empty_url, to="base", down=True)
    with opened(empty_url) as database:
        assert schema_upgrade.state(database).current is None
    schema_upgrade.upgrade(empty_url)
    assert _structure(empty_url) == structure
    fill(empty_url, conversations=2)


def test_every_table_has_a_model_that_reads_it(database_url: str) -> None:
    with Store(database_url) as store:
        id = store.new("Games", metadata={"a": 1}, system="Be brief.").id
        engine = store._engine.transactions.database.engine
        message: Any = MessageRow
        mapped = {str(mapper.local_table): mapper.class_ for mapper in Base.registry.mappers}
        assert set(mapped) == set(Base.metadata.tables)
        with Session(engine) as session:
            for model in mapped.values():
                session.scalars(select(model)).all()
            conversation: Any = session.scalars(select(ConversationRow)).one()
            assert (conversation.id, conversation.title, conversation.metadata_) == (id, "Games", '{"a":1}')
            assert session.scalar(select(message.content).where(message.conversation_id == id)) == "Be brief."
