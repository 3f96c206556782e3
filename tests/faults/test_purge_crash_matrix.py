"""Test `kill -9` at every statement and commit of a purge: it has happened as a whole or not at all.

A child purges a conversation with forks, and kills itself at point k, before or after the k-th statement or commit.
"""

from __future__ import annotations

import base64
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, select

from convstore import ConversationNotFound, Store
from convstore.db.tables import metadata, search_documents, tombstones
from convstore.testing import ChatServer, Reply
from tests.contract.invariants import check_all, check_conversation, engine_of
from tests.faults.clients import open_store
from tests.faults.crashing import Points, run_child
from tests.processes import Channel, Zygote

SECRET = "Zebrawort"


def prepare(store: Store, server: ChatServer, id: str) -> None:
    """Store a conversation with everything that one can have, and forks that share some of it."""
    store.new(id=id, title=SECRET, name=f"{id}-name", system=f"{SECRET} system", metadata={SECRET: id})
    for number in range(3):
        server.script(Reply(f"Reply {number}"))
        store.say(id, f"Question {number}", idempotency_key=f"{number}")
    server.script(Reply("A summary"))
    store.compact(id, keep_last=1)
    store.tag(id, "tag")
    store.rate(id, 3, "good", note="Well")
    store.pin(id, 2)
    store.fork(id, at=5, new_id=f"fork-of-{id}", name=f"{id}-fork-name", title=None)
    store.fork(f"fork-of-{id}", new_id=f"deep-{id}")
    store.append(f"deep-{id}", {"role": "user", "content": "At the end"})
    picture = "data:image/png;base64," + base64.b64encode(f"{SECRET} of {id}".encode() * 500).decode()
    parts = [{"type": "text", "text": SECRET}, {"type": "image_url", "image_url": {"url": picture}}]
    store.append(id, {"role": "user", "content": parts})


def purge(channel: Channel, *, url: str, base_url: str, id: str, kill_at: int) -> None:
    """Purge a conversation; run in the child."""
    store = open_store(url, base_url)
    store.list()
    Points(channel, kill_at).step = "purge"
    store.purge(id)
    channel.send(["done", "purge"])


def read_shared(store: Store, id: str) -> list[Any]:
    """Return what the forks show."""
    return [
        (store.tree(fork), store.history(fork, exact=True), store.summary(fork), store.get(fork).pins)
        for fork in (f"fork-of-{id}", f"deep-{id}")
    ]


def read_rows(store: Store, id: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of a conversation, by table."""
    with engine_of(store).connect() as connection:
        found = {}
        for table in metadata.sorted_tables:
            column = table.c.get("conversation_id", table.c.get("id"))
            if column is not None and table not in (tombstones, search_documents):
                found[table.name] = [tuple(row) for row in connection.execute(select(table).where(column == id))]
    return found


@pytest.fixture
def store(database_url: str, chat_server: ChatServer, zygote: Zygote) -> Iterator[Store]:
    with open_store(database_url, chat_server.url) as store:
        yield store


def test_after_a_kill_at_any_point_a_purge_has_happened_or_not(
    zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer, tmp_path: Path
) -> None:
    is_sqlite = engine_of(store).dialect.name == "sqlite"
    prepared = Path(make_url(database_url).database or "")

    def place(id: str) -> tuple[str, str]:
        """Return the database and the conversation for a point: a copy of the file, or a conversation of its own."""
        if not is_sqlite:
            prepare(store, chat_server, id)
            return database_url, id
        copy = tmp_path / f"{id}.db"
        shutil.copy(prepared, copy)
        return f"sqlite:///{copy}", "prepared"

    if is_sqlite:
        prepare(store, chat_server, "prepared")
        with closing(sqlite3.connect(prepared)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    url, id = place("unharmed")
    done, points = run_child(zygote.start(purge, url=url, base_url=chat_server.url, id=id, kill_at=-1), killed=False)
    assert done == ["purge"]
    assert len(points) >= 60
    durable, commits = [], 0
    for _, _, when, what, writing in points:
        commits += (when, what, writing) == ("after", "COMMIT", True)
        durable.append(commits > 0)

    def at_point(kill_at: int, places: tuple[str, str]) -> None:
        url, id = places
        with open_store(url, chat_server.url) as other:
            shared, rows = read_shared(other, id), read_rows(other, id)
        acknowledged, _ = run_child(
            zygote.start(purge, url=url, base_url=chat_server.url, id=id, kill_at=kill_at), killed=True
        )
        assert acknowledged == []
        with open_store(url, chat_server.url) as other:
            if durable[kill_at]:
                assert {table: found for table, found in read_rows(other, id).items() if found} == {}
                with pytest.raises(ConversationNotFound):
                    other.get(id)
            else:
                assert read_rows(other, id) == rows
            assert read_shared(other, id) == shared
            for fork in (f"fork-of-{id}", f"deep-{id}"):
                check_conversation(engine_of(other), "", fork)
            if not durable[kill_at]:
                other.purge(id, finish=False)
            assert other.finish_purge() == []
            assert read_shared(other, id) == shared
            assert {table: found for table, found in read_rows(other, id).items() if found} == {}
        if is_sqlite:
            for suffix in ("", "-wal"):
                file = Path(f"{make_url(url).database}{suffix}")
                assert not file.exists() or b"Zebrawort title" not in file.read_bytes()

    def with_note(job: tuple[int, tuple[str, str]]) -> None:
        try:
            at_point(*job)
        except BaseException as error:
            error.add_note(f"killed at point {job[0]}: {points[job[0]]}")
            raise

    # On PostgreSQL, where each point takes longer: those beside the commit, and every fifth of the others.
    last = durable.index(True)
    chosen = range(len(points)) if is_sqlite else sorted({*range(0, last, 5), *range(last - 2, len(points))})
    jobs = [(number, place(f"at-{number}")) for number in chosen]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(with_note, jobs))
    check_all(engine_of(store))
    print(f"\npurge, {'sqlite' if is_sqlite else 'postgresql'}: killed at {len(chosen)} of {len(points)} points")
