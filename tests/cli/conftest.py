"""The command line, ready to be run against a new database and a scripted server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from convstore.testing import ChatServer
from tests.cli.program import Program, Rows


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    """The command line with an environment that names neither a database, a model nor a server."""
    return Program(monkeypatch, tmp_path)


@pytest.fixture
def program(bare: Program, sqlite_url: str, chat_server: ChatServer) -> Program:
    """The command line with a SQLite file that does not exist yet, and a server that echoes."""
    bare.set(CONVSTORE_DB=sqlite_url, OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="test-model")
    return bare


@pytest.fixture
def on_each(bare: Program, database_url: str, chat_server: ChatServer) -> Program:
    """As `program`, on each kind of database in turn."""
    bare.set(CONVSTORE_DB=database_url, OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="test-model")
    return bare


@pytest.fixture
def rows(sqlite_url: str) -> Iterator[Rows]:
    """What `program`'s database holds."""
    found = Rows(sqlite_url)
    yield found
    found.close()
