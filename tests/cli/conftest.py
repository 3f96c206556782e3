"""Provide the command line with a new database and a scripted server."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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


class _Strict(BaseHTTPRequestHandler):
    """Answers only to one key; its error quotes the key, as some servers do."""

    status = 401

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        is_right = self.headers.get("Authorization") == "Bearer sk-right"
        listed = [{"id": "test-model", "object": "model", "created": 1, "owned_by": "me"}]
        body: dict[str, Any] = {"object": "list", "data": listed}
        if not is_right:
            body = {"error": {"message": f"Wrong key: {self.headers.get('Authorization')}"}}
        data = json.dumps(body).encode()
        self.send_response(200 if is_right else self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Silent(_Strict):
    status = 404


def _serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture
def strict_server() -> Iterator[str]:
    """Yield the URL of a server that accepts the key `sk-right` only."""
    yield from _serve(_Strict)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Yield the URL of a server that does not list its models."""
    yield from _serve(_Silent)
