"""Provide running services: one with keys on each database, and one without keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from convstore import Store
from convstore.testing import ChatServer
from tests.cli.conftest import bare, program, sqlite_template  # noqa: F401 (fixtures)
from tests.postgres import new_database
from tests.server.running import Keys, RunningService, make_keys, serving


@dataclass(frozen=True)
class KeyedService:
    """A service with keys, its database and its upstream."""

    running: RunningService
    keys: Keys
    store: Store
    upstream: ChatServer
    url: str
    """Of the database."""


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def keyed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    """Yield a service with keys, on each database in turn; the tests of a worker share it."""
    if request.param == "sqlite":
        yield from _serve_with_keys(f"sqlite:///{tmp_path_factory.mktemp('service')}/chat.db")
        return
    template = request.getfixturevalue("postgres_template")
    with new_database(request.getfixturevalue("postgres_server"), template) as url:
        yield from _serve_with_keys(url)


def _serve_with_keys(url: str) -> Iterator[KeyedService]:
    keys = make_keys(url)
    options = (
        "--read-timeout",
        "2",
        "--max-body",
        "1",
        "--rate",
        "0",
        "--wrong-keys",
        "0",
        "--allowed-host",
        "chat.example.org",
    )
    with (
        ChatServer() as upstream,
        serving(
            url, "--upstream", upstream.url, "--pass", "embeddings", *options, OPENAI_API_KEY="sk-upstream"
        ) as running,
        Store(url) as store,
    ):
        yield KeyedService(running, keys, store, upstream, url)


@pytest.fixture(scope="session")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Yield a service on a database without keys."""
    path: Path = tmp_path_factory.mktemp("keyless") / "chat.db"
    with serving(f"sqlite:///{path}", "--cors-origin", "https://page.example.org") as running:
        yield running
