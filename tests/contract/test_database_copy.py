"""Test copies of databases: they have everything, go on after a stop, bring what is new, and never mix databases."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from convstore import Conflict, DamagedRow, DatabaseError, DatabaseUnavailable, InvalidInput, SchemaOutdated, Store
from convstore.db import copied_rows, copy_target, row_stream
from convstore.db.copy_target import TableWriter
from convstore.db.database_copy import CopyReport, copy_database
from convstore.db.delta_rows import insert_delta
from convstore.db.engine import Database, open_database
from convstore.db.tables import compatibility, erasures, metadata, search_backlog, search_documents
from convstore.db.verification import verify
from convstore.testing import ChatServer, Reply
from convstore.values.identifiers import ConversationKey, TurnNumber
from tests.faults.clients import open_store

IMAGE = b64encode(bytes(range(256)) * 20).decode()
PART = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
DELTA = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Half"}}]}


def fill(store: Store, chat_server: ChatServer) -> None:
    """Store conversations of two owners with everything that a conversation can have."""
    for owner in ("", "Ünal"):
        chat = store.for_owner(owner)
        chat.new(id="long", messages=[{"role": "system", "content": "Be brief."}], name="long", title="Olympia 天气")
        chat.append(
            "long", *({"role": ("user", "assistant")[i % 2], "content": f"word{i} NUL \0 🙂"} for i in range(40))
        )
        chat.say("long", [{"role": "user", "content": [PART]}], idempotency_key="k", temperature=0.5)
        chat.rate("long", chat.get("long").length, "good", note="yes")
        chat.pin("long", 2)
        chat.fork("long", at=30, new_id="fork")
        chat.say("fork", "Hi")
        chat_server.script(Reply("A summary."))
        chat.compact("fork", keep_last=1)
        chat.undo("long")
        chat.tag("fork", "work", "later")
        chat.new(id="kept", messages=[{"role": "user", "content": "x"}], name="kept")
        chat.archive("kept")
        chat.new(id="deleted", messages=[{"role": "user", "content": "x"}])
        chat.delete("deleted")


@contextmanager
def opened(*urls: str) -> Iterator[list[Database]]:
    databases = [open_database(url) for url in urls]
    try:
        yield databases
    finally:
        for database in databases:
            database.close()


def copy(source: str, target: str, **options: Any) -> CopyReport:
    with opened(source, target) as (one, other):
        return copy_database(one, other, **options)


def read_tables(url: str) -> dict[str, list[Any]]:
    """Return the rows of all tables that are copied."""
    with opened(url) as (database,):
        database_schema(database)
        with database.read() as connection:
            return {
                table: [row for page in copied_rows.read_pages(lambda: nullcontext(connection), table) for row in page]
                for table in copied_rows.COPIED_TABLES
            }


def database_schema(database: Database) -> None:
    from convstore.db.schema_upgrade import state

    state(database)


@pytest.fixture(params=["sqlite-postgresql", "postgresql-sqlite", "sqlite-sqlite"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Return a source and a target of each kind."""
    kinds = request.param.split("-")
    found = [
        request.getfixturevalue("postgres_url") if kind == "postgresql" else f"sqlite:///{tmp_path}/{number}.db"
        for number, kind in enumerate(kinds)
    ]
    return found[0], found[1]


@pytest.fixture
def pair(tmp_path: Path, chat_server: ChatServer) -> Iterator[tuple[str, str, Store]]:
    """Yield a filled SQLite source, a target that does not exist, and the store of the source."""
    source = f"sqlite:///{tmp_path}/source.db"
    with open_store(source, chat_server.url) as store:
        fill(store, chat_server)
        yield source, f"sqlite:///{tmp_path}/target.db", store


def test_a_copy_has_everything_and_is_used_as_its_source_was(urls: tuple[str, str], chat_server: ChatServer) -> None:
    source, target = urls
    with open_store(source, chat_server.url) as store:
        fill(store, chat_server)
    report = copy(source, target)
    assert report.differences == []
    assert report.rows["convstore_messages"] == report.written["convstore_messages"] > 80
    assert (report.rows["convstore_attachments"], report.changed_meanwhile, report.running_turns) == (2, 0, 0)
    assert read_tables(source) == read_tables(target)
    with opened(target) as (database,):
        assert verify(database).damages == []
    with open_store(source, chat_server.url) as one, open_store(target, chat_server.url) as other:
        for owner in ("", "Ünal"):
            first, second = one.for_owner(owner), other.for_owner(owner)
            for id in ("long", "fork", "kept"):
                assert first.get(id) == second.get(id)
                assert first.history(id) == second.history(id)
                assert first.turns(id) == second.turns(id)
            assert first.usage() == second.usage()
            second.reindex()
            for query in ("word7", "天气", "Hi", "kept"):
                hits = first.search(query, archived=True).hits
                assert hits
                assert second.search(query, archived=True).hits == hits
            assert second.redo("long").length == first.redo("long").length
        assert other.say("long", "And now?")
        assert other.say("long", [{"role": "user", "content": [PART]}])


def test_every_table_is_copied_or_made_again() -> None:
    made_again = {compatibility.name, search_documents.name, search_backlog.name, erasures.name}
    assert {*copied_rows.COPIED_TABLES} == metadata.tables.keys() - made_again
    for table in copied_rows.COPIED_TABLES:
        keys = [column.name for column in metadata.tables[table].primary_key]
        assert row_stream.list_columns(table)[: len(keys)] == keys


def test_a_copy_that_was_stopped_anywhere_goes_on_and_cannot_be_used_before(
    pair: tuple[str, str, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, _ = pair
    flush = TableWriter.flush
    monkeypatch.setattr(copy_target, "_BATCH_ROWS", 7)
    monkeypatch.setattr(row_stream, "_PAGE_ROWS", 5)
    stops = 0

    def stop_after_one(writer: TableWriter) -> None:
        before = writer._new or writer._changed or writer._removed
        flush(writer)
        if before:
            raise KeyboardInterrupt

    monkeypatch.setattr(TableWriter, "flush", stop_after_one)
    while True:
        try:
            report = copy(source, target)
        except KeyboardInterrupt:
            stops += 1
            with Store(target) as store, pytest.raises(DatabaseUnavailable, match="unfinished copy"):
                store.list()
        else:
            break
    assert stops > 15
    assert (report.differences, report.written["convstore_messages"]) == ([], 0)
    assert read_tables(source) == read_tables(target)
    with Store(target) as store:
        store.reindex()
        assert len(store.search("word7").hits) == 1


def test_a_second_copy_brings_what_is_new_and_nothing_else(pair: tuple[str, str, Store]) -> None:
    source, target, chat = pair
    copy(source, target)
    with Store(target) as store:
        store.for_owner("Ünal").reindex()
        store.reindex()
    chat.append("long", {"role": "user", "content": "Something newer"})
    chat.set("long", name="kept-before", title="Athens")
    chat.set("kept", name="long")
    chat.set("long", name="kept")  # the two have swapped their names
    chat.untag("fork", "work")
    chat.tag("fork", "new")
    chat.rate("fork", chat.get("fork").length, "bad")
    chat.restore("deleted")
    chat.new(id="newer", messages=[{"role": "user", "content": "brand new"}])
    report = copy(source, target)
    assert report.differences == []
    assert report.written["convstore_messages"] == 2
    assert read_tables(source) == read_tables(target)
    with Store(target) as store:
        store.reindex()
        for query, found in (("newer", 1), ("brand", 1), ("Athens", 1), ("Olympia", 1), ("word7", 1)):
            assert len(store.search(query).hits) == found, query  # Olympia: the fork has the title
    assert sum(copy(source, target).written.values()) == 0


def test_what_was_purged_since_is_purged_in_the_copy_too(urls: tuple[str, str], chat_server: ChatServer) -> None:
    source, target = urls
    with open_store(source, chat_server.url) as store:
        fill(store, chat_server)
        chat = store.for_owner("Ünal")
        chat.set_retention(timedelta(days=365))
        chat.fork("fork", new_id="deep")
        assert copy(source, target).erased == 0
        chat.purge("long")
        chat.purge("deleted")
        store.fork("kept", new_id="new-fork")
        report = copy(source, target)
        assert (report.erased, report.differences) == (2, [])
        assert read_tables(source) == read_tables(target)
        assert copy(source, target).erased == 0
        assert chat.retention() == store.for_owner("Ünal").retention()
        with open_store(target, chat_server.url) as copied:
            assert copied.for_owner("Ünal").retention() == chat.retention()
            assert copied.for_owner("Ünal").history("deep") == chat.history("deep")
            assert copied.finish_purge() == []
            copied.reindex()
        with opened(target) as (database,):
            found = verify(database)
            assert (found.damages, found.search_index.is_complete) == ([], True)
        # A conversation that came back with other contents replaces the one that was purged.
        chat.new(id="long", messages=[{"role": "user", "content": "Anew"}])
        assert copy(source, target).differences == []
        assert read_tables(source) == read_tables(target)


def test_a_message_that_was_redacted_in_the_source_is_replaced_in_the_copy(
    urls: tuple[str, str], chat_server: ChatServer
) -> None:
    source, target = urls
    with open_store(source, chat_server.url) as store:
        fill(store, chat_server)
        copy(source, target)
        with opened(source) as (database,), database.write() as connection:
            connection.plain.execute(
                text("UPDATE convstore_messages SET content = 'removed' WHERE conversation_id = 'long' AND seq = 3")
            )
            values = {"owner": "Ünal", "conversation_id": "long", "seq": 3, "extent": "message"}
            for owner in ("", "Ünal"):
                row = {**values, "owner": owner, "redacted_at": datetime.now(UTC)}
                connection.plain.execute(metadata.tables["convstore_redactions"].insert().values(row))
        report = copy(source, target)
        assert (report.erased, report.differences) == (2, [])
        assert read_tables(source) == read_tables(target)


def test_a_turn_that_runs_while_it_is_copied_ends_as_interrupted_in_the_copy(
    urls: tuple[str, str], chat_server: ChatServer, tmp_path: Path
) -> None:
    source, target = urls
    with open_store(source, chat_server.url) as store:
        store.new(id="c")
        with store.stream("c", "Tell me") as reply:
            next(iter(reply))
            with opened(source) as (database,):
                database_schema(database)
                with database.write() as connection:
                    insert_delta(connection, ConversationKey("", "c"), TurnNumber(1), 1, DELTA)
            assert copy(source, target).running_turns == 1
            later = f"sqlite:///{tmp_path}/later.db"
            copy(source, later)
            with open_store(target, chat_server.url) as other:
                assert other.say("c", "Go on", wait=0)  # nobody waits for a process that does not know the copy
                first, second = other.turns("c")
                assert (first.status, second.status) == ("interrupted", "completed")
                partial = [node.message for node in other.tree("c") if node.turn == 1][-1]
                assert partial["content"] == "Half"
            list(reply)
        with pytest.raises(Conflict, match=r"conversation 'c' was written in .* after it was copied"):
            copy(source, target)
        assert copy(source, later).written["convstore_turns"] == 1  # this one was not used
        assert read_tables(source) == read_tables(later)


def test_a_target_with_another_conversation_is_refused_and_stays_as_it_is(pair: tuple[str, str, Store]) -> None:
    source, target, _ = pair
    with Store(target) as store:
        store.for_owner("bob").new(id="own", messages=[{"role": "user", "content": "mine"}])
    before = read_tables(target)
    with pytest.raises(Conflict, match=r"conversation 'own' of owner 'bob' is in .* and not in"):
        copy(source, target)
    assert read_tables(target) == before
    with Store(target) as store:
        assert store.for_owner("bob").get("own").length == 1


def test_a_message_that_was_written_in_the_copy_is_never_lost(pair: tuple[str, str, Store]) -> None:
    source, target, chat = pair
    copy(source, target)
    with Store(target) as store:
        store.append("long", {"role": "user", "content": "only here"})
    chat.append("long", {"role": "user", "content": "only there"}, {"role": "user", "content": "and more"})
    with pytest.raises(Conflict, match="conversation 'long' was written in"):
        copy(source, target)
    with opened(target) as (database,), database.read() as connection:
        assert "only here" in connection.plain.scalars(text("SELECT content FROM convstore_messages")).all()


def test_a_purge_does_not_reach_what_was_written_in_the_copy(pair: tuple[str, str, Store]) -> None:
    source, target, chat = pair
    copy(source, target)
    with Store(target) as store:
        store.append("long", {"role": "user", "content": "only here"})
    chat.purge("long")
    with pytest.raises(Conflict, match="conversation 'long' was written in"):
        copy(source, target)
    with Store(target) as store:
        assert store.history("long")[-1] == {"role": "user", "content": "only here"}


def test_after_the_purge_of_an_owner_the_copy_says_what_to_do(pair: tuple[str, str, Store]) -> None:
    source, target, chat = pair
    chat.for_owner("bob").new(id="bobs", messages=[{"role": "user", "content": "Hi"}])
    copy(source, target)
    chat.for_owner("bob").purge_owner()
    with pytest.raises(Conflict, match="or purge it there too"):
        copy(source, target)
    with Store(target) as store:
        store.for_owner("bob").purge_owner()
    assert copy(source, target).differences == []


@pytest.mark.parametrize(
    ("trigger", "difference"),
    [
        (
            "UPDATE convstore_messages SET content = 'y' WHERE seq = 3",
            "message 3 (seq 3) of conversation 'long' differs",
        ),
        ("DELETE FROM convstore_messages WHERE seq = 9", "message 9 (seq 9) of conversation 'long' is missing"),
        ("UPDATE convstore_attachments SET data = x'00'", "differs"),
        ("UPDATE convstore_turns SET status = 'failed'", "turn 1 of conversation 'long' differs"),
    ],
)
def test_a_copy_that_differs_is_named_and_cannot_be_used(
    pair: tuple[str, str, Store], trigger: str, difference: str
) -> None:
    source, target, _ = pair
    Store(target).list()
    with opened(target) as (database,), database.write() as connection:
        connection.run(
            f"CREATE TRIGGER damage AFTER INSERT ON convstore_search_backlog BEGIN {trigger}; END"
            if "messages" in trigger
            else f"CREATE TRIGGER damage AFTER INSERT ON {trigger.split()[1]} BEGIN {trigger}; END"
        )
    report = copy(source, target)
    assert any(difference in one for one in report.differences), report.differences
    with Store(target) as store, pytest.raises(DatabaseUnavailable, match="unfinished copy"):
        store.list()


def test_what_is_written_to_the_source_meanwhile_is_counted_and_brought_by_the_next_copy(
    pair: tuple[str, str, Store],
) -> None:
    source, target, chat = pair
    written: list[str] = []

    def write(what: str, *_: int) -> None:
        if what not in written:
            written.append(what)
            chat.append("long", {"role": "user", "content": what})
            chat.tag("kept", what)

    report = copy(source, target, on_progress=write)
    assert (written, report.differences, report.changed_meanwhile) == (["copied", "compared"], [], 2)
    again = copy(source, target)
    assert (again.changed_meanwhile, again.written["convstore_messages"]) == (0, 2)
    assert read_tables(source) == read_tables(target)


def test_databases_that_cannot_be_copied_are_refused(
    pair: tuple[str, str, Store], tmp_path: Path, postgres_empty_url: str
) -> None:
    source, target, _ = pair
    with pytest.raises(InvalidInput, match="to itself"):
        copy(source, source)
    with pytest.raises(DatabaseUnavailable, match="no such file"):
        copy(f"{tmp_path}/none.db", target)
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(SchemaOutdated, match=r"no convstore schema .* run `convstore db upgrade --db 'postgresql"):
        copy(source, postgres_empty_url)
    copy(source, target)
    with opened(source) as (database,), database.write() as connection:
        connection.run("UPDATE convstore_version SET version_num = '0007'")
    with pytest.raises(SchemaOutdated, match=r"source.db has schema 0007 .* run `convstore db upgrade --db "):
        copy(source, target)


def test_pages_are_limited_by_the_bytes_of_their_rows(
    database_url: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(database_url, chat_server.url) as store:
        store.new(id="c")
        store.append("c", *({"role": "user", "content": "é" * size} for size in (10, 3000, 3000, 10, 10, 9000, 10)))
    monkeypatch.setattr(row_stream, "_PAGE_BYTES", 5000)
    with opened(database_url) as (database,):
        database_schema(database)
        with database.read() as connection:
            pages = list(row_stream.stream_pages(lambda: nullcontext(connection), "convstore_messages"))
    assert [row[2] for page in pages for row in page] == list(range(1, 8))
    assert len(pages) >= 3
    assert max(len(page) for page in pages) <= 4


def test_a_damaged_row_of_the_source_is_named(pair: tuple[str, str, Store]) -> None:
    source, target, _ = pair
    with opened(source) as (database,), database.write() as connection:
        connection.run(
            "UPDATE convstore_messages SET content = CAST(x'ff' AS TEXT) WHERE seq = 5 AND conversation_id = 'long'"
        )
    with pytest.raises(DamagedRow, match=r"'long'.*message seq 5.*content does not hold a text"):
        copy(source, target)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_row_that_a_constraint_refuses_is_an_error_that_names_the_table(
    pair: tuple[str, str, Store], kind: str, request: pytest.FixtureRequest
) -> None:
    source, target, _ = pair
    with opened(source) as (database,), database.write() as connection:
        driver: Any = connection.plain.connection.driver_connection
        connection.run("COMMIT")
        driver.execute("PRAGMA foreign_keys = OFF")
        driver.execute("INSERT INTO convstore_tags VALUES ('', 'nowhere', 'tag')")
        driver.execute("PRAGMA foreign_keys = ON")
        connection.run("BEGIN")
    if kind == "postgresql":
        target = request.getfixturevalue("postgres_url")
    with pytest.raises(DatabaseError, match="a constraint refused a row of convstore_tags"):
        copy(source, target)


def test_nothing_is_removed_from_a_copy_that_was_used(pair: tuple[str, str, Store], chat_server: ChatServer) -> None:
    source, target, store = pair
    copy(source, target)
    with open_store(target, chat_server.url) as copied:
        copied.append("kept", {"role": "user", "content": "Only here"})
    before = read_tables(target)
    store.purge("long")
    with pytest.raises(Conflict, match="conversation 'kept' was written"):
        copy(source, target)
    assert read_tables(target) == before
