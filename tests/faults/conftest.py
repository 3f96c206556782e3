"""Children to crash and to contend with, on this host and on another."""

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
    """Starts children. The test and its children are on a host of their own, where no other test's lock files are."""
    host = tmp_path / "host"
    host.mkdir()
    zygote = get_zygote()
    zygote.tmpdir = host
    monkeypatch.setattr(tempfile, "tempdir", str(host))
    monkeypatch.setattr(process_locks, "_name", None)
    monkeypatch.setattr(process_locks, "_descriptor", None)
    try:
        yield zygote
    finally:
        zygote.discard()
        if process_locks._descriptor is not None:
            with suppress(OSError):
                os.close(process_locks._descriptor)


@pytest.fixture
def other_host(tmp_path: Path) -> Path:
    """A host whose lock files cannot be seen from this one."""
    host = tmp_path / "other-host"
    host.mkdir()
    return host


Opener = Callable[..., Store]


@pytest.fixture
def opening(database_url: str, chat_server: ChatServer) -> Iterator[Opener]:
    """Opens stores on the database, which has its schema."""
    with ExitStack() as stack:

        def another(**options: Any) -> Store:
            store = open_store(database_url, chat_server.url, **options)
            stack.callback(store.close)
            return store

        another().list()
        yield another


@pytest.fixture
def elsewhere(chat_server: ChatServer) -> Iterator[Callable[..., Future[Any]]]:
    """Runs a call in another thread, and returns its future."""
    with ThreadPoolExecutor(8) as threads:
        yield threads.submit
        chat_server.close()  # of a test that failed, some reply may still be held
