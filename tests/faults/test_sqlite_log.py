"""Test the log of a SQLite file: what a turn adds to it, how it grows beside a long read, and that it shrinks again."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from convstore import Store
from convstore.db import sqlite_log
from convstore.db.sqlite_log import LOG_LIMIT_BYTES, measure_log
from convstore.testing import ChatServer

PATIENCE = 60.0
FRAME_BYTES = 4096 + 24
MEGABYTE = "x" * 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def store(path: Path, chat_server: ChatServer) -> Iterator[Store]:
    with Store(path, base_url=chat_server.url, model="m") as store:
        yield store


@contextmanager
def read_long(path: Path) -> Iterator[None]:
    """Keep a read transaction open, as a report or a backup program does."""
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM convstore_messages").fetchone()
        yield
        reader.execute("ROLLBACK")


def grow(store: Store, id: str, megabytes: int) -> None:
    for _ in range(megabytes):
        store.append(id, {"role": "user", "content": MEGABYTE})


def test_a_turn_adds_some_twenty_pages_to_the_log(store: Store, path: Path) -> None:
    id = store.new().id
    for _ in range(20):
        store.say(id, "A question of an ordinary length.")
    before = measure_log(path)
    for _ in range(20):
        store.say(id, "A question of an ordinary length.")
    pages = (measure_log(path) - before) / FRAME_BYTES
    # Six at its begin, five at its end (docs/decisions/0027), and now and then a page that splits; the search index has
    # five at each.
    assert 20 * 18 <= pages <= 20 * 24


def test_the_log_shrinks_when_a_long_read_has_ended(store: Store, path: Path) -> None:
    id = store.new().id
    with read_long(path):
        grow(store, id, 6)
        assert measure_log(path) > 6_000_000
    grow(store, id, 1)  # SQLite copies the log into the database
    store.append(id, "one more")  # and begins it anew
    assert measure_log(path) <= LOG_LIMIT_BYTES


def test_the_log_of_an_idle_store_is_given_back(path: Path, chat_server: ChatServer) -> None:
    with Store(path, base_url=chat_server.url, model="m", lease=0.6) as store:
        id = store.new().id
        with read_long(path):
            grow(store, id, 6)
        assert measure_log(path) > 6_000_000
        store.say(id, "the last one", last=1)
        deadline = time.monotonic() + PATIENCE
        while measure_log(path) > 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(store.history(id)) == 8
        with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as alone:
            assert alone.execute("SELECT count(*) FROM convstore_messages").fetchone() == (8,)


def test_an_idle_store_leaves_a_log_that_another_program_reads(path: Path, chat_server: ChatServer) -> None:
    with Store(path, base_url=chat_server.url, model="m") as store:
        id = store.new().id
        with read_long(path):
            grow(store, id, 2)
            store._engine.transactions.database.shrink_idle_log()
            assert measure_log(path) > 2_000_000
        assert len(store.history(id)) == 2


def test_a_large_log_is_a_warning_in_the_log_of_the_program(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_log, "LARGE_LOG_BYTES", 2_000_000)
    caplog.set_level(logging.WARNING, logger="convstore")
    with Store(path) as store:
        id = store.new().id
        with read_long(path):
            grow(store, id, 3)
            assert len(caplog.records) == 1
            assert f"database {path}: its log has " in caplog.text
            grow(store, id, 3)
            assert len(caplog.records) == 2
        assert "unless a read transaction that began long ago holds it back" in caplog.text
