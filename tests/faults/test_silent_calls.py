"""Test calls to a silent server: `stop` closes their connection, and their waiting has a limit."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convstore import AsyncStore, ReplyInterrupted, Store, Turn, TurnFailed, TurnStatus
from convstore.provider.openai_client import make_client
from convstore.provider.raw_answer import RawAnswer
from convstore.provider.stop_signal import StopSignal
from convstore.provider.stoppable_calls import SilentServer, find_patience
from convstore.testing import ChatServer, Reply
from tests.faults.driven import opened

PATIENCE = 60.0
KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


@pytest.fixture
def submit(chat_server: ChatServer) -> Iterator[Callable[..., Future[Any]]]:
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit
        chat_server.close()  # after a failed test, a reply is still held back


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'chat.db'}"


def stream(store: Store, id: str) -> Turn:
    with store.stream(id, "Hi") as reply:
        for _ in reply:
            pass
    return reply.turn


@KINDS
def test_a_stop_closes_the_connection_of_a_call_that_waits_for_its_reply(
    kind: str, url: str, chat_server: ChatServer, submit: Callable[..., Future[Any]]
) -> None:
    begun = threading.Event()
    with Store(url) as other, opened(kind, url, chat_server, made=True) as store:
        id = other.new().id
        chat_server.script(Reply("Never", hold=threading.Event(), started=begun))
        said = submit(store.say, id, "Hi")
        assert begun.wait(PATIENCE)
        assert other.stop(id, wait=PATIENCE) is True
        with pytest.raises(ReplyInterrupted, match="was stopped before a reply came") as caught:
            said.result(PATIENCE)
        assert chat_server.wait_disconnect(PATIENCE)
        turn = other.turns(id)[0]
        # By its own process, and not taken from it.
        assert (turn.status, turn.error) == (
            TurnStatus.INTERRUPTED,
            {"type": "Stopped", "message": "stopped by the user"},
        )
        assert caught.value.turn == turn
        assert store.retry(id).text == "You said: Hi"


@KINDS
@pytest.mark.parametrize("pieces", [0, 1])
def test_a_stop_closes_the_connection_of_a_silent_stream(
    kind: str, url: str, chat_server: ChatServer, submit: Callable[..., Future[Any]], pieces: int
) -> None:
    begun = threading.Event()
    with Store(url) as other, opened(kind, url, chat_server, made=True) as store:
        id = other.new().id
        chat_server.script(
            Reply("Once more", pieces=["Once", " more"], hold=threading.Event(), hold_after=pieces, started=begun)
        )
        streamed = submit(stream, store, id)
        assert begun.wait(PATIENCE)
        assert other.stop(id, wait=PATIENCE) is True
        turn = streamed.result(PATIENCE)
        assert chat_server.wait_disconnect(PATIENCE)
        assert turn.error == {"type": "Stopped", "message": "stopped by the user"}
        assert turn.text == ("Once" if pieces else "")
        assert store.say(id, "Next").text == "You said: Next"


@KINDS
def test_a_call_whose_server_only_says_that_it_goes_on_has_a_limit(kind: str, url: str) -> None:
    end = threading.Event()

    def serve(server: socket.socket) -> None:
        server.settimeout(0.1)
        while not end.is_set():
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    while not end.is_set():
                        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                        end.wait(0.01)

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        base_url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        try:
            if kind == "sync":
                with Store(url, base_url=base_url, model="m", retries=0) as store:
                    id = store.new().id
                    with pytest.raises(TurnFailed, match="brought no data for 1 seconds"):
                        store.say(id, "Hi", timeout=0.3)
            else:
                asyncio.run(_say_async(url, base_url))
        finally:
            end.set()
            thread.join(PATIENCE)


async def _say_async(url: str, base_url: str) -> None:
    async with AsyncStore(url, base_url=base_url, model="m", retries=0) as store:
        id = (await store.new()).id
        with pytest.raises(TurnFailed, match="brought no data for 1 seconds"):
            await store.say(id, "Hi", timeout=0.3)


def test_the_connections_of_a_made_client_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    # The libraries' private names are used: this fails if a release has others.
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    client = make_client()
    inner: Any = client._client
    pools = [transport._pool for transport in (inner._transport, *inner._mounts.values()) if transport is not None]
    assert len(pools) >= 2
    for pool in pools:
        assert type(pool._network_backend).__name__ == "_Backend"
    client.close()


def test_a_signal_wakes_who_waits_and_who_comes_later() -> None:
    signal = StopSignal()
    woken: list[str] = []
    with signal.waking(lambda: woken.append("first")):
        assert woken == []
        signal.set()
    signal.set()
    with signal.waking(lambda: woken.append("later")):
        pass
    assert (woken, signal.is_set()) == (["first", "later"], True)


def test_a_pause_of_the_reader_is_not_the_servers_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def send() -> Iterator[bytes]:
        nonlocal now
        yield b'data: {"a": 1}\n\n'
        yield b": ping\n\n"
        now += 3.0  # the server is silent
        yield b": ping\n\n"

    monkeypatch.setattr("convstore.provider.raw_answer.time", SimpleNamespace(monotonic=lambda: now))
    request = SimpleNamespace(extensions={"timeout": {"read": 2.0}})
    chunks = RawAnswer(SimpleNamespace(request=request, iter_bytes=send), is_async=False).iterate()
    assert next(chunks) == {"a": 1}
    now = 100.0  # the reader pauses
    with pytest.raises(SilentServer):
        next(chunks)
    assert now == 103.0


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 1200.0),
        ({"timeout": 5}, 10.0),
        ({"timeout": None}, math.inf),
        ({"timeout": SimpleNamespace(read=None)}, math.inf),
    ],
)
def test_a_call_without_a_timeout_has_no_limit(options: dict[str, Any], seconds: float) -> None:
    assert find_patience(SimpleNamespace(timeout=SimpleNamespace(read=600.0)), options) == seconds
