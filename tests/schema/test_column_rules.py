"""Test that the rules of columns name every column, and that a purge does what they say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ARRAY, DateTime, LargeBinary, Numeric, Table, Text, insert, select, update

from convstore import Store
from convstore.db.column_rules import COLUMN_RULES, Export, Fate, Redaction
from convstore.db.tables import conversations, metadata
from convstore.testing import ChatServer
from convstore.values.export_format import CONVERSATION_FIELDS, SUMMARY_FIELDS, TURN_FIELDS
from tests.contract.invariants import engine_of
from tests.faults.clients import open_store

OWNER, ID = "mark-owner", "mark-id"
EMPTIED = (Fate.DELETED, Fate.COPIED)
IN_EVERY_ROW = {"owner", "id", "conversation_id"}


def test_every_column_has_a_rule_and_every_rule_a_column() -> None:
    found = {table.name: set(table.c.keys()) for table in metadata.sorted_tables}
    named = {table: set(rules) for table, rules in COLUMN_RULES.items()}
    assert {table: found[table] - named.get(table, set()) for table in found} == {table: set() for table in found}
    assert named == found


@pytest.mark.parametrize(
    ("table", "fields"),
    [
        ("convstore_conversations", CONVERSATION_FIELDS),
        ("convstore_turns", TURN_FIELDS),
        ("convstore_summaries", SUMMARY_FIELDS),
    ],
    ids=str,
)
def test_an_export_writes_the_columns_that_the_rules_name(table: str, fields: Any) -> None:
    written = {name for name, rule in COLUMN_RULES[table].items() if rule.export is Export.WRITTEN}
    assert written == {field.name for field in fields}


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store(database_url, owner=OWNER) as store:
        yield store


def mark(table: Table, column: str) -> str:
    return f"mark{table.name}{column}".replace("_", "")


def make_row(table: Table, key: int) -> dict[str, Any]:
    """Return a row with a text of its own in every column that can have one."""
    now = datetime.now(UTC)
    row: dict[str, Any] = {}
    for column in table.c:
        if isinstance(column.type, LargeBinary):
            row[column.name] = mark(table, column.name).encode()
        elif isinstance(column.type, Text):
            row[column.name] = mark(table, column.name)
        elif isinstance(column.type, ARRAY):
            row[column.name] = None
        elif "DateTime" in type(column.type).__name__ or isinstance(column.type, DateTime):
            row[column.name] = now
        elif isinstance(column.type, Numeric):
            row[column.name] = 1.5
        else:
            row[column.name] = key
    return {**row, "owner": OWNER, **({"conversation_id": ID} if "conversation_id" in table.c else {})}


def fill(store: Store) -> list[str]:
    """Put a text into every column of an owner, and return the texts that a purge of the conversation removes."""
    store.new(id=ID, messages=[{"role": "user", "content": "Hello"}])
    removed = []
    with engine_of(store).begin() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        for table in metadata.sorted_tables:
            if "owner" not in table.c:
                continue
            row = make_row(table, 99)
            if table is conversations:
                row |= {"lease_token": None, "running_turn": None, "lineage": None}
                row |= dict.fromkeys(("pins", "redo", "deleted_at", "archived_at"))
                row["metadata"] = f'{{"a":"{row["metadata"]}"}}'
                del row["owner"], row["id"]
                connection.execute(update(table).where(table.c.owner == OWNER, table.c.id == ID).values(row))
            else:
                if "terms" in row and not is_sqlite:
                    row["terms"] = [1, 2]
                if table.name == "convstore_messages":
                    row["extra"] = f'[{{"a":"{row["extra"]}"}},[["a"],"","{"ab" * 32}",1]]'
                if table.name == "convstore_daily_usage":
                    row["day"] = datetime.now(UTC).date().isoformat()  # of the turn
                if table.name == "convstore_attachments":
                    row["digest"] = bytes.fromhex("ab" * 32)
                connection.execute(insert(table).values(row))
            for name in row:
                if name not in IN_EVERY_ROW and COLUMN_RULES[table.name][name].purge in EMPTIED:
                    removed.append(mark(table, name))
    return removed


def read_everything(store: Store) -> bytes:
    """Return all values of all tables; for a SQLite file, its bytes and those of its log too."""
    found = []
    with engine_of(store).connect() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(select(table)):
                found += [bytes(one) if isinstance(one, bytes | memoryview) else str(one).encode() for one in row]
    path = engine_of(store).url.database
    if path is not None and engine_of(store).dialect.name == "sqlite":
        found += [Path(path + suffix).read_bytes() for suffix in ("", "-wal", "-shm") if Path(path + suffix).exists()]
    return b"\n".join(found)


def test_a_purge_removes_what_the_rules_say(store: Store) -> None:
    removed = fill(store)
    assert len(removed) > 60
    before = read_everything(store)
    texts = [one.encode() for one in removed if one.encode() in before]
    assert len(texts) > 35
    store.purge(ID)
    after = read_everything(store)
    assert [one for one in texts if one in after] == []
    assert mark(metadata.tables["convstore_retention"], "covers").encode() in after
    assert datetime.now(UTC).date().isoformat().encode() in after  # the day keeps its row, without sums


def test_a_purge_of_an_owner_removes_what_the_rules_say(store: Store) -> None:
    fill(store)
    store.purge_owner()
    after = read_everything(store)
    assert b"mark" not in after.replace(b"bookmark", b"")


SECRET = "hunter2Pa55wort"
PLAIN_COLUMNS = {"name", "title", "made_title", "content", "idempotency_key", "text", "note", "tag"}


def read_rows(store: Store) -> dict[str, list[Any]]:
    """Return the rows of each table with an owner, in the order of the key."""
    with engine_of(store).connect() as connection:
        return {
            table.name: list(connection.execute(select(table).order_by(*table.primary_key)).mappings())
            for table in metadata.sorted_tables
            if "owner" in table.c
        }


def test_a_redaction_does_what_the_rules_say(store: Store, chat_server: ChatServer) -> None:
    store.new(id=ID, name="named", messages=[{"role": "user", "name": "ada", "content": SECRET}])
    url = engine_of(store).url.render_as_string(hide_password=False)
    with open_store(url, chat_server.url, owner=OWNER) as caller:
        caller.say(ID, "And?", idempotency_key="key")
        caller.compact(ID, keep_last=0)
    store.append(ID, {"role": "user", "content": None, "extra": SECRET})
    store.rate(ID, 3, "good", note="a note")
    store.tag(ID, "a-tag")
    with engine_of(store).begin() as connection:
        # A piece of a reply that a dead process left.
        row = {"owner": OWNER, "conversation_id": ID, "turn_seq": 9, "number": 1, "delta": f'{{"a":"{SECRET}"}}'}
        connection.execute(insert(metadata.tables["convstore_deltas"]).values(row))
        # Nobody has answered as the model that is asked for: then it may be a secret.
        connection.execute(update(metadata.tables["convstore_turns"]).values(model=None))
        for table in metadata.sorted_tables:
            for name, rule in COLUMN_RULES[table.name].items():
                is_text = isinstance(table.c[name].type, Text)
                if rule.redact not in (Redaction.BLANKED, Redaction.REMOVED) or not is_text:
                    continue
                if table.name in ("convstore_messages", "convstore_deltas", "convstore_summaries"):
                    continue  # they hold it already, or are checked against their digest
                text = SECRET if name in PLAIN_COLUMNS else f'{{"a":"{SECRET}"}}'
                if name in ("attempts", "notes"):
                    text = f'[{{"error":{{"message":"{SECRET}"}}}}]' if name == "attempts" else f'["{SECRET}"]'
                only = (table.c.idempotency_key.is_not(None),) if name == "idempotency_key" else ()
                connection.execute(update(table).where(*only).values({name: text}))
    before = read_rows(store)
    store.redact(ID, 1, everywhere=True, finish=False)
    after = read_rows(store)
    for name, rows in after.items():
        for row in rows:
            for column, value in row.items():
                does = COLUMN_RULES[name][column].redact
                if does in (Redaction.BLANKED, Redaction.REMOVED):
                    assert SECRET not in str(value), f"{name}.{column}"
                    assert does is Redaction.BLANKED or not isinstance(value, bytes), f"{name}.{column}"
        changed = [
            f"{name}.{column}"
            for old, new in zip(before[name], rows, strict=False)
            for column in new
            if len(before[name]) == len(rows) and old[column] != new[column]
            if COLUMN_RULES[name][column].redact is Redaction.KEPT
            if name != "convstore_search_documents"  # a title is added to the index anew
        ]
        assert changed in ([], ["convstore_conversations.summary_turn"]), changed
    assert before["convstore_summaries"]
    assert not after["convstore_summaries"], "the summary of a message that was redacted whole is deleted"
