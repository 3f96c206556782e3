"""Provide the command line with a new database and a scripted server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from convstore.db.engine import parse_url
from convstore.db.schema_upgrade import upgrade
from convstore.testing import ChatServer
from tests.cli.program import Program, Rows


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    """Return the command line without a database, model or server in its environment."""
    for name in ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONWARNINGS", "NO_COLOR"):
        monkeypatch.delenv(
            name, raising=False
        )  # the real program must use the standard settings of Python for its streams
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("PAGER", "cat")  # no test waits for a key
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "30")
    return Program(monkeypatch, tmp_path)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file with the schema. Copying it is much faster than an upgrade."""
    path = tmp_path_factory.mktemp("template") / "chat.db"
    upgrade(str(path))
    return path


@pytest.fixture
def program(bare: Program, sqlite_url: str, sqlite_template: Path, chat_server: ChatServer) -> Program:
    """Return the command line with an empty SQLite database and a server that echoes."""
    shutil.copy(sqlite_template, parse_url(sqlite_url).database or "")
    bare.set(CONVSTORE_DB=sqlite_url, OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="test-model")
    return bare


@pytest.fixture
def on_each(bare: Program, database_url: str, chat_server: ChatServer) -> Program:
    """Return the command line with an empty database of each kind in turn."""
    bare.set(CONVSTORE_DB=database_url, OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="test-model")
    return bare


@pytest.fixture
def rows(sqlite_url: str) -> Iterator[Rows]:
    """Yield the rows of the database of `program`."""
    found = Rows(sqlite_url)
    yield found
    found.close()
