"""Test database files of earlier releases (`tests/schema/old`): they open, upgrade, and lose nothing.

`old/make.py` says how the code of those releases made them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from convstore import Store, TurnStatus
from convstore.db import schema_upgrade
from convstore.db.tables import VERSION_TABLE, metadata
from convstore.errors import DatabaseUnavailable, SchemaOutdated, SchemaTooNew
from convstore.testing import ChatServer
from tests.contract.invariants import check_conversation
from tests.schema.old.kept import FOLDER, OLDER, UNEXPLAINED, Old, unpacked
from tests.schema.old.reading import reading
from tests.schema.support import Contents, contents, migrate, opened


def select_old_fields(expected: Any, found: Any) -> Any:
    """Return what this release read without the fields that the old release did not have."""
    names = ("conversation", "messages", "turns", "inputs")
    return {key: _select(value, found[key]) if key in names else found[key] for key, value in expected.items()}


def _select(expected: Any, found: Any) -> Any:
    if isinstance(expected, list):
        assert len(expected) == len(found)
        return [_select(one, other) for one, other in zip(expected, found, strict=True)]
    selected = {key: found[key] for key in expected}
    if selected.get("window"):  # the report has fields too, and its options
        report = {key: selected["window"][key] for key in expected["window"]}
        if "options" in report:
            report["options"] = {key: report["options"][key] for key in expected["window"]["options"]}
        selected["window"] = report
    return selected


def assert_nothing_lost(old: Old, store: Store) -> None:
    found = reading(store)
    for owner, expected in old.read.items():
        ids = [it["conversation"]["id"] for it in expected]
        assert [it["conversation"]["id"] for it in found[owner]] == ids
        for one, other in zip(expected, found[owner], strict=True):
            told = one["conversation"]
            if told.get("forked_from") is not None and told["model"] is None:  # a fork now shows its origin's model
                told["model"] = other["conversation"]["model"]
            assert select_old_fields(one, other) == one, (owner, one["conversation"]["id"])


# --- the files ---


def test_there_are_files_of_every_earlier_schema() -> None:
    """A migration after a release adds the files of that release: see CONTRIBUTING.md."""
    wanted = {f"{revision}.{kind}" for revision in OLDER for kind in ("db", "sql", "db.json", "sql.json")}
    kept = {path.name.removesuffix(".gz"): path.stat().st_size for path in FOLDER.glob("*.gz")}
    assert wanted <= set(kept)
    assert max(kept.values()) < 100_000


def test_the_files_have_their_schemas_and_hold_what_is_hard_to_store(old: Old) -> None:
    found = contents(old.url)
    assert found[VERSION_TABLE][1] == [(old.revision,)]
    tables = {"conversations": 36, "messages": 500, "turns": 200} | ({"deltas": 2} if old.revision >= "0002" else {})
    for table, least in tables.items():
        assert len(found[f"convstore_{table}"][1]) >= least, table
    turns = [turn for *_, it in old.conversations() for turn in it["turns"]]
    assert {turn["status"] for turn in turns} == set(TurnStatus)
    longest = max(old.conversations(), key=lambda found: found[2]["conversation"]["length"])[2]
    assert longest["conversation"]["length"] > 300
    assert longest["conversation"]["head_seq"] > 330  # the others are off the path


# --- they open ---


def test_they_open_with_nothing_lost(old: Old) -> None:
    before = contents(old.url)
    with Store(old.url) as store:
        if not old.is_sqlite:  # a SQLite file upgrades itself
            with pytest.raises(SchemaOutdated, match=f"schema {old.revision}.*run `convstore db upgrade`"):
                store.list()
            assert contents(old.url) == before
            schema_upgrade.upgrade(old.url)
        assert_nothing_lost(old, store)
    after = contents(old.url)
    assert after.pop(VERSION_TABLE)[1] == [(schema_upgrade.HEAD,)]
    for table, (columns, _) in before.items():
        if table != VERSION_TABLE:
            assert only(after, table, columns) == before[table], table
            added = [name for name in after[table][0] if name not in columns]
            assert {value for row in only(after, table, added)[1] for value in row} <= {None}, table
    # What waits for the search index was there before; the index itself is not.
    new = set(after) - set(before) - {"convstore_search_backlog", "convstore_search_documents"}
    assert {row for table in new for row in after[table][1]} == set()


def only(found: Contents, table: str, columns: list[str]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return a table's rows with only these columns."""
    names, rows = found[table]
    places = [names.index(name) for name in columns]
    return columns, sorted((tuple(row[place] for place in places) for row in rows), key=repr)


def test_the_rows_are_consistent_after_dead_turns_are_taken_over(old: Old, chat_server: ChatServer) -> None:
    old.upgrade()
    with Store(old.url, base_url=chat_server.url) as store:
        for owner, id, read in old.conversations():
            held = any(turn["status"] == "running" for turn in read["turns"])
            if (old.revision, id) in UNEXPLAINED:
                continue
            check_conversation(store, owner, id, running=held)
            if held:
                store.for_owner(owner).append(id, "Is anybody there?")
                check_conversation(store, owner, id)


# --- down, and up again ---


@pytest.mark.parametrize("target", OLDER)
def test_going_down_to_an_older_schema_and_up_again_keeps_what_that_schema_holds(
    restore: Callable[[str], Old], target: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    old = restore(OLDER[-1])
    old.upgrade()
    with Store(old.url, base_url=chat_server.url, model="test-model") as store:
        for owner, id, _ in old.conversations()[::3]:  # add rows of this release
            store.for_owner(owner).say(id, "More")
    full = contents(old.url)
    migrate(old.url, to=target, down=True)
    lowered = contents(old.url)
    for table, (columns, rows) in lowered.items():
        if table != VERSION_TABLE:
            assert only(full, table, columns) == (columns, rows), table
    schema_upgrade.upgrade(old.url)
    raised = contents(old.url)
    assert {table: raised[table][0] for table in full} == {table: columns for table, (columns, _) in full.items()}
    for table, (columns, rows) in lowered.items():
        if table != VERSION_TABLE:
            assert only(raised, table, columns) == (columns, rows), table
    assert set(raised) == {*metadata.tables, VERSION_TABLE}


def test_going_down_puts_attachments_back_into_their_messages(database_url: str) -> None:
    """Schema 0003 stores attachments in a table; schema 0002 stores them in the message."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "AAAA" * 2000}}
    sound = {
        "type": "input_audio",
        "input_audio": {"data": "BBBB" * 3000, "format": "wav"},
        "\0": ["\ud83d", -0.0, 2**70],
    }
    message = {"role": "user", "content": [image, {"type": "text", "text": "你好 \0"}, sound, image]}
    with Store(database_url) as store:
        store.new(id="theirs", messages=[message, {"role": "user", "content": "[plain"}])
        store.for_owner("ada").new(id="hers", messages=[message])
    migrate(database_url, to="0002", down=True)
    with opened(database_url) as database, database.read() as connection:
        rows = connection.plain.scalars(text("SELECT extra FROM convstore_messages WHERE extra IS NOT NULL"))
        assert [json.loads(extra) for extra in rows] == [{"content": message["content"]}] * 2
    schema_upgrade.upgrade(database_url)
    with Store(database_url) as store:
        assert store.history("theirs", exact=True) == [message, {"role": "user", "content": "[plain"}]
        assert store.for_owner("ada").history("hers", exact=True) == [message]


# --- broken copies ---


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_file_that_was_cut_short_is_named_and_never_read_as_empty(sqlite_url: str, share: float) -> None:
    """Everything that is read is right; what is missing is a DatabaseError, at once or when it is needed."""
    whole = unpacked(f"{OLDER[-1]}.db")
    Path(sqlite_url.removeprefix("sqlite:///")).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DatabaseUnavailable, match=r"chat\.db"), Store(sqlite_url) as store:
        reading(store)


def test_a_copy_with_a_newer_schema_is_refused_and_not_changed(old: Old) -> None:
    with opened(old.url) as database, database.write() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
        connection.execute(text("UPDATE convstore_compatibility SET minimum_version = '0999'"))
    before = contents(old.url)
    with Store(old.url) as store, pytest.raises(SchemaTooNew, match=r"0999.*upgrade convstore"):
        reading(store)
    assert contents(old.url) == before
