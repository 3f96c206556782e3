"""Test that nothing of what was purged can be found in the bytes of a SQLite file, its log and its index."""

from __future__ import annotations

import random
import runpy
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event

from convstore import InvalidInput, PurgeUnfinished, Store
from convstore.db import search_index, sqlite_erasing
from convstore.db.schema_upgrade import migrations_folder, upgrade
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.invariants import check_all, engine_of
from tests.schema.old.kept import OLDER, restored

SECRET = "Zebrawort"  # and `zebrawort` in the search index


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def store(path: Path, chat_server: ChatServer) -> Iterator[Store]:
    with Store(path, base_url=chat_server.url, model="m") as store:
        yield store
        check_all(engine_of(store))


def find(path: Path, *texts: str) -> dict[str, int]:
    """Return in which files beside a database, and how often, one of some texts stands, in any case of letters."""
    found = {}
    for file in sorted(path.parent.iterdir()):
        if file.is_file() and file.name.startswith(path.name):
            content = file.read_bytes().lower()
            count = sum(content.count(text.lower().encode()) for text in (SECRET, *texts))
            if count:
                found[file.name] = count
    return found


@contextmanager
def read_long(path: Path) -> Iterator[None]:
    """Keep a read transaction open, as a report or a backup program does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM convstore_messages").fetchone()
        yield
        reader.execute("ROLLBACK")


def use(store: Store, server: ChatServer, choose: random.Random, id: str, word: str) -> None:
    """Use a conversation in one of many ways, with a word in every text."""

    def write() -> str:
        return (
            f"{word}{choose.randrange(10**6)} "
            + word * choose.choice((0, 1, 5, 40, 400))
            + "x" * choose.randrange(3000)
        )

    match choose.randrange(8):
        case 0:
            store.append(id, *[{"role": "user", "content": write()} for _ in range(choose.randrange(1, 30))])
        case 1:
            server.script(Failure(500, message=write()[:200]))
            with pytest.raises(Exception, match="500"):
                store.say(id, write(), idempotency_key=f"{word}-{choose.random()}")
        case 2:
            server.script(Reply(write()))
            store.say(id, write(), user=f"{word}-user")
        case 3:
            server.script(Reply(write()))
            with store.stream(id, write()) as reply:
                list(reply)
        case 4:
            store.set(id, title=write()[:300], name=f"{word}-{choose.randrange(10**9)}", metadata={word: write()})
        case 5:
            store.tag(id, f"{word}-{choose.randrange(100)}")
        case 6:
            store.fork(id, new_id=f"{id}-{choose.randrange(10**9)}", name=None)
        case 7:
            store.append(id, {"role": "user", "content": [{"type": "text", "text": write()}], "x": {word: write()}})


@pytest.mark.parametrize("seed", range(3))
def test_after_any_use_nothing_is_found_in_the_bytes(
    store: Store, path: Path, chat_server: ChatServer, seed: int
) -> None:
    choose = random.Random(seed)
    words = {f"c{number}": SECRET if number % 2 else "Plain" for number in range(8)}
    for id, word in words.items():
        store.new(id=id, title=f"{word} title", name=f"{word}-{id}")
    for _ in range(250):
        id = choose.choice(list(words))
        use(store, chat_server, choose, id, words[id])
    everything = store.list(limit=None)
    secret = [one.id for one in everything if words[one.id.partition("-")[0]] == SECRET]
    before = {one.id: store.tree(one.id) for one in everything if one.id not in secret}
    assert find(path)["chat.db"] > 100
    choose.shuffle(secret)  # also origins before their forks
    for id in secret:
        store.purge(id, finish=False)
    assert find(path)
    assert store.finish_purge() == []
    assert find(path) == {}
    assert {one.id: store.tree(one.id) for one in store.list(limit=None)} == before
    assert len(store.search("Plain*").hits) > 5


def test_a_purge_overwrites_the_file_at_once(store: Store, path: Path) -> None:
    store.new(id="a", title=SECRET, messages=[{"role": "user", "content": SECRET}])
    store.purge("a")
    assert find(path) == {}
    assert store.finish_purge() == []


@pytest.mark.parametrize("revision", [OLDER[0], OLDER[-2], OLDER[-1]])
def test_a_file_of_an_earlier_release_is_overwritten_too(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "chat.db"
    restored(revision, "db", f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as earlier:  # its connections do not overwrite what they delete
        earlier.execute("PRAGMA secure_delete = OFF")  # which some builds of SQLite have on
        for number in range(200):
            values = ("ada", "long", 9000 + number, f"{SECRET} {'x' * (number * 37 % 2000)}")
            earlier.execute(
                "INSERT INTO convstore_messages (owner, conversation_id, seq, parent_seq, position, role, content,"
                " context_seq, digest, created_at) VALUES (?, ?, ?, 0, 1, 'user', ?, 0, x'00', '2026-01-01 00:00:00')",
                values,
            )
        earlier.execute("DELETE FROM convstore_messages WHERE seq >= 9000")
        earlier.commit()
    assert find(path)
    with Store(path, owner="ada") as store:
        text = store.history("long")[1]["content"]
        assert text.encode() in path.read_bytes()
        store.purge("long")
        assert find(path, f"That was {text.lower()}") == {}
        assert store.list()


def test_a_reader_keeps_the_log_and_the_purge_is_finished_later(store: Store, path: Path) -> None:
    store.new(id="a", messages=[{"role": "user", "content": f"{SECRET} {number}"} for number in range(50)])
    store.new(id="b", messages=[{"role": "user", "content": f"{SECRET} {number}"} for number in range(50)])
    with read_long(path):
        with pytest.raises(PurgeUnfinished, match="the rows are gone, but others use the database file") as error:
            store.purge("a")
        assert (error.value.left, [one.conversation_id for one in error.value.receipts]) == (("log",), ["a"])
        assert [one.id for one in store.list()] == ["b"]
        assert store.finish_purge() == ["log"]
        with pytest.raises(PurgeUnfinished) as error:
            store.purge_older_than(timedelta())
        assert (error.value.left, error.value.busy) == (("log",), ())
        assert find(path)
    assert store.finish_purge() == []
    assert find(path) == {}


def test_a_writer_keeps_the_file_from_being_rewritten_and_it_is_rewritten_later(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convstore.db.sqlite_erasing._WAIT_MS", 50)
    store.new(id="a", messages=[{"role": "user", "content": SECRET}])
    store.purge("a", finish=False)
    rewrite = "convstore.db.sqlite_erasing._rewrite"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        original = sqlite_erasing._rewrite

        def rewrite_late(database: object) -> bool:
            writer.execute("BEGIN IMMEDIATE")
            try:
                return original(database)  # type: ignore[arg-type]
            finally:
                writer.execute("ROLLBACK")

        monkeypatch.setattr(rewrite, rewrite_late)
        assert store.finish_purge() == ["rewrite", "log"]
        monkeypatch.setattr(rewrite, original)
    assert store.finish_purge() == []
    assert find(path) == {}


def test_what_is_purged_meanwhile_is_not_taken_for_finished(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second conversation is purged after the index was merged for the first one."""
    for id in ("a", "b"):
        store.new(id=id, messages=[{"role": "user", "content": SECRET}])
    store.purge("a", finish=False)
    rewrite = sqlite_erasing._rewrite

    def purge_another(database: object) -> bool:
        monkeypatch.setattr(sqlite_erasing, "_rewrite", rewrite)
        store.purge("b", finish=False)
        return rewrite(database)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite_erasing, "_rewrite", purge_another)
    assert store.finish_purge() == ["index", "rewrite", "log"]
    assert store.finish_purge() == []
    assert find(path) == {}


def test_a_purge_on_a_callers_engine_is_overwritten_too(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with Store(engine=engine) as store:
        store.new(id="a", title=SECRET, messages=[{"role": "user", "content": SECRET * 900} for _ in range(30)])
        store.purge("a")
        assert find(path) == {}
    engine.dispose()


def test_a_purge_in_the_callers_transaction_is_theirs_to_commit_and_to_finish(store: Store, path: Path) -> None:
    store.new(id="a", messages=[{"role": "user", "content": SECRET}])
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        store.using(connection).purge("a")
        connection.rollback()
    assert len(store.history("a")) == 1
    with engine.connect() as connection:
        view = store.using(connection)
        view.purge("a")
        with pytest.raises(InvalidInput, match="outside of your transaction"):
            view.finish_purge()
        connection.commit()
    engine.dispose()
    assert store.list() == []
    assert store.finish_purge() == []
    assert find(path) == {}


def test_our_connections_overwrite_what_they_delete(store: Store) -> None:
    store.list()
    with engine_of(store).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1


def test_a_callers_connection_overwrites_before_anything_is_deleted(path: Path, store: Store) -> None:
    store.new(id="a", messages=[{"role": "user", "content": "x"}])
    engine = create_engine(f"sqlite:///{path}")
    statements: list[str] = []

    def note(_c: object, _d: object, statement: str, *_: object) -> None:
        statements.append(statement.split(" WHERE", maxsplit=1)[0])

    event.listen(engine, "before_cursor_execute", note)
    with engine.begin() as connection:
        store.using(connection).purge("a")
    engine.dispose()
    first_delete = next(place for place, one in enumerate(statements) if one.startswith("DELETE"))
    assert statements.index("PRAGMA secure_delete = ON") < first_delete


def test_without_fts5_the_plain_table_has_no_word_left(path: Path) -> None:
    upgrade(f"sqlite:///{path}")
    plain = runpy.run_path(str(migrations_folder() / "versions" / "0007_search.py"))["PLAIN_TABLE"]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"DROP TABLE {search_index.TERMS_TABLE}")
        for statement in plain:
            connection.execute(statement)
    with Store(path) as store:
        store.new(id="a", title=SECRET, messages=[{"role": "user", "content": f"{SECRET} {n}"} for n in range(99)])
        store.new(id="b", messages=[{"role": "user", "content": "Another"}])
        assert len(store.search(SECRET).hits) > 5
        store.purge("a")
        assert find(path) == {}
        assert [hit.conversation for hit in store.search("Another").hits] == ["b"]


def test_a_database_in_memory_is_purged_too() -> None:
    with Store("sqlite://") as store:
        store.new(id="a", messages=[{"role": "user", "content": SECRET}])
        store.purge("a")
        assert store.list() == []
        with engine_of(store).connect() as connection:
            content = connection.connection.driver_connection.serialize()  # type: ignore[union-attr]
        assert SECRET.encode() not in content
        assert SECRET.lower().encode() not in content
