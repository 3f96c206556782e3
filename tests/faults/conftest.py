"""Fixtures: child processes on this host and on another one, and stores in threads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from convstore import Store
from convstore.leases import process_locks
from convstore.testing import ChatServer
from tests.faults.clients import open_store
from tests.processes import Zygote, get_zygote


@pytest.fixture
def zygote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zygote]:
    """Yield the zygote. The test and its children share a host on which no other test has lock files."""
    host = tmp_path / "host"
    host.mkdir()
    zygote = get_zygote()
    zygote.tmpdir = host
    monkeypatch.setattr(tempfile, "tempdir", str(host))
    monkeypatch.setattr(process_locks, "_files", {})
    monkeypatch.setattr(process_locks, "_named", {})
    try:
        yield zygote
    finally:
        zygote.discard()
        for file in process_locks._named.values():
            with suppress(OSError):
                os.close(file.descriptor)
        process_locks._files.clear()
        process_locks._named.clear()


@pytest.fixture
def other_host(tmp_path: Path) -> Path:
    """Return the folder of another host's lock files; this host cannot see them."""
    host = tmp_path / "other-host"
    host.mkdir()
    return host


Opener = Callable[..., Store]


@pytest.fixture
def opening(database_url: str, chat_server: ChatServer) -> Iterator[Opener]:
    """Yield a function that opens stores on a database with the schema."""
    with ExitStack() as stack:

        def another(**options: Any) -> Store:
            store = open_store(database_url, chat_server.url, **options)
            stack.callback(store.close)
            return store

        another().list()
        yield another


@pytest.fixture
def elsewhere(chat_server: ChatServer) -> Iterator[Callable[..., Future[Any]]]:
    """Yield a function that runs a call in another thread and returns its future."""
    with ThreadPoolExecutor(8) as threads:
        yield threads.submit
        chat_server.close()  # after a failed test, a reply may still be held back
