"""Test failures of the provider: what is stored, what is sent again, and when the call is repeated.

Every test runs with `Store` and with `AsyncStore`, on one database: the provider's failures do not depend on it.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import openai
import pytest
from sqlalchemy import select

from convstore import ReplyInterrupted, Store, Turn, TurnFailed, TurnStatus
from convstore.db.tables import deltas, turns
from convstore.testing import ChatServer, Drop, Failure, Raw, Reply
from tests.contract.invariants import check_all
from tests.faults.driven import engine_of, opened

Ask = Callable[..., Turn]

MODES = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, chat_server: ChatServer) -> Iterator[Store]:
    with opened(kind, "sqlite://", chat_server) as store:
        yield store
        check_all(engine_of(store))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the seconds before repeated calls, without waiting."""
    waited: list[float] = []

    async def note(_: object, seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("convstore.turns.sync_runner.wait", lambda _, seconds: waited.append(seconds))
    monkeypatch.setattr("convstore.turns.async_runner._wait_for_signal", note)
    return waited


def ask(store: Store, id: str, message: str, *, streamed: bool, **options: Any) -> Turn:
    """Say something, or stream a reply to its end."""
    if not streamed:
        return store.say(id, message, **options)
    with store.stream(id, message, **options) as reply:
        for _ in reply:
            pass
    return reply.turn


def sent(server: ChatServer) -> list[dict[str, Any]]:
    """Return the messages of the last request."""
    messages: list[dict[str, Any]] = server.requests[-1].body["messages"]
    return messages


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {"content": content} if content is not None else {}
    return {"choices": [{"delta": delta, **({"finish_reason": finish} if finish else {})}], **more}


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def recorded(store: Store, id: str) -> Turn:
    """Return the last turn, read from the database."""
    return store.turns(id)[-1]


# --- cut after every number of bytes ---


@pytest.mark.parametrize("clean", [False, True], ids=["broken", "closed"])
def test_a_stream_cut_at_any_byte_is_completed_only_after_its_finish_reason(
    store: Store, chat_server: ChatServer, clean: bool
) -> None:
    chunks = [chunk("Hel"), chunk("lo"), chunk(finish="stop"), {"choices": [], "usage": {"total_tokens": 7}}]
    events = [event(body) for body in chunks]
    ends = [len(b"".join(events[: count + 1])) for count in range(len(events))]
    body = b"".join(events) + b"data: [DONE]\n\n"
    id = store.new().id
    path: list[dict[str, Any]] = []
    outcomes = set()
    for cut in range(len(body) + 1):
        chat_server.script(Reply(chunks=chunks, cut_after=cut, clean_cut=clean))
        error: TurnFailed | None = None
        try:
            turn = ask(store, id, f"cut {cut}", streamed=True)
        except TurnFailed as failure:
            turn, error = failure.turn, failure
        assert sent(chat_server) == [*path, user(f"cut {cut}")]
        came = "".join(text for text, end in zip(("Hel", "lo"), ends, strict=False) if end <= cut)
        outcomes.add(turn.status)
        if turn.status is TurnStatus.COMPLETED:
            assert error is None
            assert cut >= ends[2] - 2, f"whole after {cut} bytes, and its finish_reason ends at {ends[2]}"
            assert (turn.text, turn.finish_reason) == ("Hello", "stop")
            path += [user(f"cut {cut}"), assistant("Hello")]
        else:
            assert cut < ends[2], f"not whole after {cut} bytes, and its finish_reason ends at {ends[2]}"
            assert turn.finish_reason is None
            if came:
                assert isinstance(error, ReplyInterrupted)
                assert (turn.status, turn.text) == (TurnStatus.INTERRUPTED, came)
                assert error.partial == assistant(came)
            else:
                assert type(error) is TurnFailed
                assert (turn.status, turn.message) == (TurnStatus.FAILED, None)
        assert recorded(store, id).status == turn.status
        assert recorded(store, id).text == turn.text
    assert outcomes == {TurnStatus.COMPLETED, TurnStatus.INTERRUPTED, TurnStatus.FAILED}
    assert store.history(id) == path
    assert [turn.usage for turn in store.turns(id, limit=None) if turn.usage], "the usage chunk counts when it comes"


@pytest.mark.parametrize("clean", [False, True], ids=["broken", "closed"])
def test_a_whole_reply_cut_at_any_byte_is_a_failure_and_never_a_reply(
    store: Store, chat_server: ChatServer, clean: bool
) -> None:
    choices = [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]
    id = store.new().id
    chat_server.script(Reply(choices=choices, usage=None, id="x", system_fingerprint=None))
    store.say(id, "whole")
    path = store.history(id)
    assert path == [user("whole"), assistant("Hi")]
    cut = 0
    while True:
        chat_server.script(
            Reply(choices=choices, usage=None, id="x", system_fingerprint=None, cut_after=cut, clean_cut=clean)
        )
        error: TurnFailed | None = None
        try:
            turn = store.say(id, f"cut {cut}")
        except TurnFailed as failure:
            error = failure
        assert sent(chat_server) == [*path, user(f"cut {cut}")]
        if error is None:
            break
        assert type(error) is TurnFailed
        assert (error.turn.status, error.turn.message, error.turn.attempts) == (TurnStatus.FAILED, None, ())
        cut += 1
    assert cut > 100
    assert turn.text == "Hi"
    assert store.history(id) == [*path, user(f"cut {cut}"), assistant("Hi")]
    assert len(chat_server.requests) == cut + 2  # no call was repeated
    assert {turn.status for turn in store.turns(id, limit=None)[1:-1]} == {TurnStatus.FAILED}


def test_a_reply_that_was_cut_off_is_kept_with_its_turn_and_the_next_try_does_not_send_it(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new(system="Be brief.").id
    for _ in range(3):
        chat_server.script(Reply("Hello there", pieces=["Hello", " there"], cut_after=700))
        with pytest.raises(ReplyInterrupted, match="Later calls leave it out") as caught:
            ask(store, id, "Hi", streamed=True)
        assert caught.value.partial == {"role": "assistant", "content": "Hello there"}
        assert caught.value.turn.text == "Hello there"
        assert store.history(id) == [{"role": "system", "content": "Be brief."}]
    assert ask(store, id, "Hi", streamed=False).text == "You said: Hi"
    assert sent(chat_server) == [{"role": "system", "content": "Be brief."}, user("Hi")]
    assert [turn.status for turn in store.turns(id)] == ["interrupted"] * 3 + ["completed"]
    assert store.unanswered(id) == []


# --- odd or broken streams ---


def test_garbage_in_a_stream_interrupts_it_and_keeps_the_part_before(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply(pieces=["Hel", "lo"], garbage="{not json", garbage_after=1))
    with pytest.raises(ReplyInterrupted, match="not JSON") as caught:
        ask(store, id, "Hi", streamed=True)
    assert caught.value.partial == assistant("Hel")
    chat_server.script(Reply(pieces=["Hel", "lo"], garbage="{not json"))
    with pytest.raises(TurnFailed, match="not JSON") as failed:
        ask(store, id, "Hi", streamed=True)
    assert (failed.value.turn.status, failed.value.turn.message) == (TurnStatus.FAILED, None)
    assert store.history(id) == []


def test_garbage_after_the_end_of_a_stream_changes_nothing(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    body = event(chunk("Hello")) + event(chunk(finish="stop")) + b"data: {garbage\n\n"
    chat_server.script(Raw(body, content_type="text/event-stream"))
    turn = ask(store, id, "Hi", streamed=True)
    assert (turn.status, turn.text, turn.finish_reason, turn.error) == ("completed", "Hello", "stop", None)
    assert store.history(id) == [user("Hi"), assistant("Hello")]


def test_an_error_event_in_mid_stream_interrupts_the_reply(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    error = {"message": "The engine is overheating.", "type": "server_error", "code": "hot"}
    chat_server.script(Reply(pieces=["Hel", "lo"], error_event=error, error_after=1))
    with pytest.raises(ReplyInterrupted, match="The engine is overheating") as caught:
        ask(store, id, "Hi", streamed=True)
    assert caught.value.partial == assistant("Hel")
    assert caught.value.turn.error is not None
    assert caught.value.turn.error["message"] == "The engine is overheating."
    chat_server.script(Reply(pieces=["Hel", "lo"], error_event=error))
    with pytest.raises(TurnFailed, match="The engine is overheating") as failed:
        ask(store, id, "Hi", streamed=True)
    assert failed.value.turn.status is TurnStatus.FAILED
    assert len(chat_server.requests) == 2  # a stream that has begun is never repeated
    assert store.history(id) == []


def test_a_second_finish_changes_nothing(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply(chunks=[chunk("Hello"), chunk(finish="stop"), chunk(finish="stop"), chunk(finish=None)]))
    turn = ask(store, id, "Hi", streamed=True)
    assert (turn.status, turn.text, turn.finish_reason) == ("completed", "Hello", "stop")
    assert store.history(id) == [user("Hi"), assistant("Hello")]


def test_keep_alive_comments_are_not_text(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply("Hello there", keep_alives=True))
    turn = ask(store, id, "Hi", streamed=True)
    assert (turn.status, turn.text) == ("completed", "Hello there")


@pytest.mark.parametrize("when", ["before", "after", "always", "never"])
def test_usage_may_come_before_the_finish_after_it_or_never(store: Store, chat_server: ChatServer, when: Any) -> None:
    id = store.new().id
    chat_server.script(Reply("Hello", usage_chunk=when))
    turn = ask(store, id, "Hi", streamed=True)
    assert (turn.status, turn.text, turn.finish_reason) == ("completed", "Hello", "stop")
    assert recorded(store, id).usage == turn.usage
    expected = None if when == "never" else {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert turn.usage == expected


def test_a_stream_with_done_but_without_a_finish_reason_is_interrupted(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply("Hello", finish_reason=None))
    with pytest.raises(ReplyInterrupted, match="without its finish_reason") as caught:
        ask(store, id, "Hi", streamed=True)
    assert caught.value.partial == assistant("Hello")
    assert store.history(id) == []


def test_one_choice_without_an_end_interrupts_the_whole_reply(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    second = {"choices": [{"index": 1, "delta": {"content": "Bye"}, "finish_reason": None}]}
    chat_server.script(Reply(chunks=[chunk("Hello"), second, chunk(finish="stop")]))
    with pytest.raises(ReplyInterrupted):
        ask(store, id, "Hi", streamed=True, n=2)
    assert store.history(id) == []


@MODES
def test_a_tool_call_that_was_cut_off_is_kept_and_never_sent(
    store: Store, chat_server: ChatServer, streamed: bool
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Beijing"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    id = store.new().id
    chat_server.script(Reply(message=message, finish_reason=None))
    with pytest.raises(ReplyInterrupted) as caught:
        ask(store, id, "Hi", streamed=streamed)
    assert caught.value.partial is not None
    assert caught.value.partial["tool_calls"] == [call]
    assert store.history(id) == []
    ask(store, id, "Again", streamed=streamed)
    assert sent(chat_server) == [user("Again")]


# --- repeated calls ---


@MODES
def test_a_call_to_an_overloaded_provider_is_repeated_and_every_try_is_stored(
    store: Store, chat_server: ChatServer, streamed: bool
) -> None:
    id = store.new().id
    chat_server.script(
        Failure(503, "Warming up.", retry_after=0), Failure(429, retry_after=0), Reply("Hello", system_fingerprint="f")
    )
    turn = ask(store, id, "Hi", streamed=streamed)
    assert (turn.status, turn.text) == ("completed", "Hello")
    assert [attempt["error"]["status"] for attempt in turn.attempts] == [503, 429]
    assert [attempt["waited"] for attempt in turn.attempts] == [0, 0]
    assert turn.attempts[0]["error"]["message"] == "Warming up."
    assert recorded(store, id).attempts == turn.attempts
    with engine_of(store).connect() as connection:
        column = connection.scalar(select(turns.c.attempts))
    assert [attempt["error"]["status"] for attempt in json.loads(column or "")] == [503, 429]
    assert store.history(id) == [user("Hi"), assistant("Hello")]
    assert [record.seq for record in store.messages(id)] == [1, 2]  # one user message for all tries
    assert [request.body["messages"] for request in chat_server.requests] == [[user("Hi")]] * 3


@MODES
def test_a_repeated_call_waits_as_long_as_retry_after_says(
    store: Store, chat_server: ChatServer, waits: list[float], streamed: bool
) -> None:
    id = store.new().id
    date = formatdate(time.time() + 30, usegmt=True)
    chat_server.script(Failure(429, retry_after=0.25), Failure(429, headers={"Retry-After": date}), Reply("Hello"))
    turn = ask(store, id, "Hi", streamed=streamed)
    assert turn.text == "Hello"
    assert waits[0] == 0.25
    assert 25 < waits[1] <= 31
    assert [attempt["waited"] for attempt in turn.attempts] == [pytest.approx(wait, abs=0.001) for wait in waits]


def test_a_repeated_call_waits_until_the_time_that_retry_after_names(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Failure(429, retry_after=0.2), Reply("Hello"))
    before = time.monotonic()
    assert ask(store, id, "Hi", streamed=False).text == "Hello"
    assert 0.2 <= time.monotonic() - before < 5


def test_without_retry_after_the_waits_grow(store: Store, chat_server: ChatServer, waits: list[float]) -> None:
    id = store.new().id
    chat_server.script(Failure(503), Failure(503, headers={"Retry-After": "soon"}), Reply("Hello"))
    assert ask(store, id, "Hi", streamed=False).text == "Hello"
    assert 0.375 <= waits[0] <= 0.625
    assert 0.75 <= waits[1] <= 1.25


@MODES
def test_a_call_does_not_wait_for_an_hour(
    store: Store, chat_server: ChatServer, waits: list[float], streamed: bool
) -> None:
    id = store.new().id
    chat_server.script(Failure(429, retry_after=3600))
    with pytest.raises(TurnFailed, match="429") as caught:
        ask(store, id, "Hi", streamed=streamed)
    assert (waits, len(chat_server.requests), caught.value.turn.attempts) == ([], 1, ())


def test_after_the_last_try_the_turn_has_the_last_error(
    store: Store, chat_server: ChatServer, waits: list[float]
) -> None:
    id = store.new().id
    chat_server.script(*(Failure(503, f"No {number}", retry_after=1) for number in range(5)))
    with pytest.raises(TurnFailed, match="No 2") as caught:
        ask(store, id, "Hi", streamed=False)
    assert (waits, len(chat_server.requests)) == ([1, 1], 3)
    assert len(caught.value.turn.attempts) == 2
    assert recorded(store, id).attempts == caught.value.turn.attempts
    assert recorded(store, id).error == caught.value.turn.error
    assert store.history(id) == []


def test_a_store_may_be_told_to_try_once(kind: str, chat_server: ChatServer, waits: list[float]) -> None:
    with opened(kind, "sqlite://", chat_server, retries=0) as store:
        id = store.new().id
        chat_server.script(Failure(503, retry_after=0))
        with pytest.raises(TurnFailed, match="503"):
            ask(store, id, "Hi", streamed=False)
    assert (waits, len(chat_server.requests)) == ([], 1)


@MODES
@pytest.mark.parametrize(
    "failure",
    [
        Failure(500),
        Failure(502),
        Failure(400),
        Failure(401),
        Failure(404),
        Failure(408),
        Failure(409),
        Failure(429, code="insufficient_quota", retry_after=0),
        Raw("<html>Bad gateway</html>", status=504, content_type="text/html"),
        Drop(),
    ],
    ids=["500", "502", "400", "401", "404", "408", "409", "quota", "html", "dropped"],
)
def test_a_call_is_not_repeated_if_a_reply_may_exist_or_waiting_does_not_help(
    store: Store, chat_server: ChatServer, waits: list[float], failure: Any, streamed: bool
) -> None:
    id = store.new().id
    chat_server.script(failure)
    with pytest.raises(TurnFailed) as caught:
        ask(store, id, "Hi", streamed=streamed)
    assert type(caught.value) is TurnFailed
    assert (waits, len(chat_server.requests), caught.value.turn.attempts) == ([], 1, ())
    assert store.history(id) == []
    assert ask(store, id, "Again", streamed=streamed).text == "You said: Again"
    assert sent(chat_server) == [user("Again")]


# --- connections ---


@contextmanager
def deaf() -> Iterator[str]:
    """Yield a port with a full queue: a connection to it is never made."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = []
        try:
            for _ in range(4):
                knocking = socket.socket()
                knocking.settimeout(0)
                knocking.connect_ex(address)
                waiting.append(knocking)
            yield f"http://127.0.0.1:{address[1]}/v1"
        finally:
            for knocking in waiting:
                knocking.close()


@contextmanager
def without_server() -> Iterator[str]:
    """Return a port without a server."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


@MODES
@pytest.mark.parametrize(("place", "problem"), [(without_server, "refused|attempts failed"), (deaf, "timed out")])
def test_a_call_that_never_connected_is_repeated_and_then_fails(
    store: Store, waits: list[float], place: Any, problem: str, streamed: bool
) -> None:
    id = store.new().id
    with place() as url:
        store._engine.clients.get().base_url = url
        with pytest.raises(TurnFailed, match=problem) as caught:
            ask(store, id, "Hi", streamed=streamed, timeout=0.1)
    assert len(waits) == len(caught.value.turn.attempts) == 2
    assert 0.375 <= waits[0] < waits[1] <= 1.25
    assert caught.value.turn.error is not None
    assert caught.value.turn.error["type"] in ("APIConnectionError", "APITimeoutError")
    assert store.history(id) == []


@MODES
def test_a_call_that_timed_out_is_not_repeated(
    store: Store, chat_server: ChatServer, waits: list[float], streamed: bool
) -> None:
    id = store.new().id
    chat_server.script(Reply("Too late", hold=threading.Event()))
    with pytest.raises(TurnFailed, match="timed out") as caught:
        ask(store, id, "Hi", streamed=streamed, timeout=0.1)
    assert type(caught.value) is TurnFailed
    assert (waits, len(chat_server.requests)) == ([], 1)
    assert "timeout" not in recorded(store, id).request


def test_a_stream_that_falls_silent_is_interrupted_with_its_part(
    store: Store, chat_server: ChatServer, waits: list[float]
) -> None:
    id = store.new().id
    chat_server.script(Reply(pieces=["Hel", "lo"], hold=threading.Event(), hold_after=1))
    with pytest.raises(ReplyInterrupted, match="timed out") as caught:
        ask(store, id, "Hi", streamed=True, timeout=openai.Timeout(5, read=0.2))
    assert caught.value.partial == assistant("Hel")
    assert (waits, len(chat_server.requests)) == ([], 1)
    assert store.history(id) == []


def test_failed_streams_leave_no_connection_and_no_thread(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply(pieces=["Hel", "lo"], hold=threading.Event(), hold_after=1))
    with pytest.raises(ReplyInterrupted):
        ask(store, id, "Hi", streamed=True, timeout=openai.Timeout(5, read=0.8))
    with engine_of(store).connect() as connection:
        assert connection.execute(select(deltas)).all() == []
