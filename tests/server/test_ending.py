"""Test how turns end with the service: within the time of grace, or with what came of them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2 as httpx
import pytest

from convstore import Store
from convstore.testing import ChatServer, Reply
from tests.processes import PATIENCE
from tests.server.running import RunningService, serving
from tests.server.test_serving import wait_for_workers

PIECES = ["one ", "two ", "three"]
WORKERS = pytest.mark.parametrize("workers", [1, 2])


@contextmanager
def streaming(running: RunningService) -> Iterator[Iterator[str]]:
    """Ask for a stream, and yield the lines of the answer once the first piece has come."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "count"}]}
    with (
        httpx.Client(base_url=running.url, timeout=PATIENCE, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status_code == 200
        lines = answer.iter_lines()
        while "one" not in next(lines):
            pass
        yield lines


def wait_until_nobody_is_let_in(running: RunningService) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with running.connect() as connection:
                connection.settimeout(0.2)
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                connection.recv(1)
        except (TimeoutError, ConnectionError):
            return
    raise AssertionError("the service takes connections")


@WORKERS
def test_a_turn_that_ends_in_the_time_of_grace_is_whole(postgres_url: str, workers: int) -> None:
    go = threading.Event()
    with (
        ChatServer() as upstream,
        serving(postgres_url, "--upstream", upstream.url, "--workers", str(workers), OPENAI_API_KEY="none") as running,
    ):
        upstream.script(Reply(pieces=PIECES, text="".join(PIECES), hold=go, hold_after=1))
        with streaming(running) as lines:
            running.process.send_signal(signal.SIGTERM)
            wait_until_nobody_is_let_in(running)
            go.set()
            rest = "".join(lines)
        assert "three" in rest
        assert "[DONE]" in rest
        assert running.process.wait(PATIENCE) == 0
    with Store(postgres_url) as store:
        (turn,) = store.turns(store.list()[0].id)
        assert (turn.status, turn.text) == ("completed", "one two three")


@WORKERS
def test_of_a_turn_that_lasts_longer_the_part_that_came_is_kept(postgres_url: str, workers: int) -> None:
    go = threading.Event()
    options = ("--workers", str(workers), "--grace", "2")
    with (
        ChatServer() as upstream,
        serving(postgres_url, "--upstream", upstream.url, *options, OPENAI_API_KEY="none") as running,
    ):
        upstream.script(Reply(pieces=PIECES, text="".join(PIECES), hold=go, hold_after=1))
        with streaming(running):
            began = time.monotonic()
            assert running.end() == 0
            took = time.monotonic() - began
        go.set()
    assert 1.5 < took < 3.9  # the connection and the turn have the time of grace together
    with Store(postgres_url) as store:
        id = store.list()[0].id
        (turn,) = store.turns(id)
        assert (turn.status, turn.text) == ("interrupted", "one ")
        store.append(id, "The conversation is free.")
    assert "Traceback" not in "".join(running.log)


def test_a_turn_goes_on_without_its_client_until_the_time_of_grace_is_over(sqlite_url: str) -> None:
    go = threading.Event()
    with (
        ChatServer() as upstream,
        serving(sqlite_url, "--upstream", upstream.url, OPENAI_API_KEY="none") as running,
    ):
        upstream.script(Reply(pieces=PIECES, text="".join(PIECES), hold=go, hold_after=1))
        with streaming(running):
            pass
        running.process.send_signal(signal.SIGTERM)
        wait_until_nobody_is_let_in(running)
        go.set()
        assert running.process.wait(PATIENCE) == 0
    with Store(sqlite_url) as store:
        (turn,) = store.turns(store.list()[0].id)
        assert (turn.status, turn.text) == ("completed", "one two three")


def test_a_worker_that_is_replaced_ends_its_turns(postgres_url: str) -> None:
    go = threading.Event()
    with (
        ChatServer() as upstream,
        serving(postgres_url, "--upstream", upstream.url, "--workers", "2", OPENAI_API_KEY="none") as running,
    ):
        workers = wait_for_workers(running, 2, set())
        upstream.script(Reply(pieces=PIECES, text="".join(PIECES), hold=go, hold_after=1))
        with streaming(running) as lines:
            running.process.send_signal(signal.SIGHUP)
            threading.Timer(1, go.set).start()
            rest = "".join(lines)
        assert "[DONE]" in rest
        wait_for_workers(running, 2, workers)
        assert running.ask("GET", "/v1/conversations").status_code == 200
