"""Test replies that their reader cuts off: closing, Ctrl-C, an exception, a stop, `kill -9`.

Nothing that was received is lost, and the cost is bounded."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select

from convstore import Store, Turn, TurnStatus
from convstore.db.tables import deltas
from convstore.leases.heartbeat import FLUSH_SECONDS
from convstore.testing import ChatServer, Reply
from tests.contract.invariants import check_all
from tests.faults.clients import open_store
from tests.faults.driven import engine_of, opened
from tests.processes import Channel, Zygote


@pytest.fixture(params=["sync", "async"])
def store(request: pytest.FixtureRequest, database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    """Yield a `Store` and an `AsyncStore` on each database."""
    with opened(str(request.param), database_url, chat_server) as store:
        yield store
        check_all(engine_of(store))


@pytest.fixture
def sync_store(database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with opened("sync", database_url, chat_server) as store:
        yield store
        check_all(engine_of(store))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def held(server: ChatServer, *pieces: str, after: int = 1, **options: Any) -> threading.Event:
    """Script a reply that pauses after some pieces until the event is set."""
    go = threading.Event()
    server.script(Reply(pieces=list(pieces), hold=go, hold_after=after, **options))
    return go


def stored_deltas(store: Store) -> int:
    with engine_of(store).connect() as connection:
        return len(connection.execute(select(deltas)).all())


def check_stopped(store: Store, server: ChatServer, id: str, path: list[dict[str, Any]], text: str) -> Turn:
    """Assert that the user stopped the last turn, that the path is `path`, and that the next `say` sends it."""
    turn = store.turns(id)[-1]
    assert (turn.status, turn.text, turn.finish_reason) == (TurnStatus.INTERRUPTED, text, None)
    assert turn.error is not None
    assert turn.error["type"] == "Stopped"
    assert store.history(id) == path
    assert stored_deltas(store) == 0
    server.script(Reply("And on."))
    assert store.say(id, "Next", wait=0).text == "And on."
    assert server.requests[-1].body["messages"] == [*path, user("Next")]
    return turn


# --- the reader stops ---


def test_closing_a_stream_keeps_the_partial_reply_on_the_path(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    held(chat_server, "Hel", "lo")
    with store.stream(id, "Hi") as reply:
        assert next(reply) == "Hel"
        reply.close()
        assert list(reply) == []
    assert reply.turn == check_stopped(store, chat_server, id, [user("Hi"), assistant("Hel")], "Hel")
    assert chat_server.wait_disconnect(), "the provider is hung up on, so that it stops generating"


def test_breaking_out_of_the_loop_keeps_the_partial_reply_on_the_path(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    held(chat_server, "Hel", "lo", "!", after=2)
    with store.stream(id, "Hi") as reply:
        for piece in reply:
            if piece == "lo":
                break
    check_stopped(store, chat_server, id, [user("Hi"), assistant("Hello")], "Hello")


@pytest.mark.parametrize("error", [RuntimeError("consumer"), KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_an_exception_in_the_readers_loop_keeps_the_partial_reply_on_the_path(
    sync_store: Store, chat_server: ChatServer, error: BaseException
) -> None:
    store = sync_store
    id = store.new().id
    held(chat_server, "Hel", "lo")

    def read() -> None:
        with store.stream(id, "Hi") as reply:
            for _ in reply:
                raise error

    with pytest.raises(type(error)) as caught:
        read()
    assert caught.value is error
    check_stopped(store, chat_server, id, [user("Hi"), assistant("Hel")], "Hel")


def test_a_stream_closed_before_its_first_piece_does_not_change_the_path(store: Store, chat_server: ChatServer) -> None:
    id = store.new(system="Be brief.").id
    reasoning = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
    chat_server.script(Reply(chunks=[*reasoning, *reasoning], hold=threading.Event(), hold_after=1))
    with store.stream(id, "Hi") as reply:
        pass
    assert (reply.turn.status, reply.turn.message, reply.turn.output_seq) == (TurnStatus.INTERRUPTED, None, None)
    assert [turn.seq for turn in store.unanswered(id)] == [reply.turn.seq]
    check_stopped(store, chat_server, id, [{"role": "system", "content": "Be brief."}], "")


def test_a_stream_that_is_never_read_does_not_call_the_model(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    store.stream(id, "Hi").close()
    assert store.turns(id) == []
    assert chat_server.requests == []


def test_a_stream_stopped_after_its_finish_reason_is_whole(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    last = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": "stop"}]}
    chat_server.script(Reply(chunks=[last, last], hold=threading.Event(), hold_after=1))
    with store.stream(id, "Hi") as reply:
        assert next(reply) == "Hello"
    assert (reply.turn.status, reply.turn.finish_reason) == (TurnStatus.COMPLETED, "stop")
    assert store.history(id) == [user("Hi"), assistant("Hello")]


def test_a_tool_call_stopped_in_its_arguments_is_kept_with_the_turn_and_never_sent(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    parts: list[dict[str, Any]] = [
        {"content": "Let me look."},
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"ci'}}]},
        {"content": "!"},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'ty": "Beijing"}'}}]},
    ]
    chunks = [{"choices": [{"index": 0, "delta": part, "finish_reason": None}]} for part in parts]
    chat_server.script(Reply(chunks=chunks, hold=threading.Event(), hold_after=4))
    with store.stream(id, "Hi") as reply:
        assert [next(reply), next(reply)] == ["Let me look.", "!"]
    function = {"name": "f", "arguments": '{"ci'}
    kept = {
        "role": "assistant",
        "content": "Let me look.!",
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    assert reply.turn.message == kept
    check_stopped(store, chat_server, id, [], "Let me look.!")


def test_an_abandoned_stream_does_not_hold_its_conversation(sync_store: Store, chat_server: ChatServer) -> None:
    store = sync_store
    id = store.new().id
    held(chat_server, "Hel", "lo")
    for _ in store.stream(id, "Hi"):
        break  # without `with`, and with no reference to the stream left
    gc.collect()
    assert store.say(id, "Next", wait=10).text == "You said: Next"
    assert store.turns(id)[0].status is TurnStatus.INTERRUPTED
    assert store.turns(id)[0].text == "Hel"


# --- Ctrl-C at any moment ---


def interrupted_reader(channel: Channel, url: str, base_url: str, id: str, inside: str) -> None:
    """Stream a reply, and report what Ctrl-C did to it."""
    with open_store(url, base_url) as store:
        pieces = []
        try:
            if inside == "say":
                channel.send(["ready", None])
                store.say(id, "Hi")
            with store.stream(id, "Hi") as reply:
                for piece in reply:
                    pieces.append(piece)
                    channel.send(["ready", None])
                    if inside == "loop":
                        signal.pause()
        except KeyboardInterrupt:
            channel.send(["interrupted", pieces])
        channel.receive()


@pytest.mark.parametrize("inside", ["loop", "network"])
def test_ctrl_c_keeps_the_partial_reply_on_the_path(
    sync_store: Store, chat_server: ChatServer, zygote: Zygote, database_url: str, inside: str
) -> None:
    store = sync_store
    id = store.new().id
    held(chat_server, "Hel", "lo")
    child = zygote.start(interrupted_reader, url=database_url, base_url=chat_server.url, id=id, inside=inside)
    child.receive("ready")
    child.interrupt()
    assert child.receive("interrupted") == ["Hel"]
    check_stopped(store, chat_server, id, [user("Hi"), assistant("Hel")], "Hel")  # the child goes on
    child.send("end")
    assert child.wait() == 0


def test_ctrl_c_before_a_whole_reply_does_not_change_the_path(
    sync_store: Store, chat_server: ChatServer, zygote: Zygote, database_url: str
) -> None:
    store = sync_store
    id = store.new().id
    chat_server.script(Reply("Never", hold=threading.Event()))
    child = zygote.start(interrupted_reader, url=database_url, base_url=chat_server.url, id=id, inside="say")
    child.receive("ready")
    assert chat_server.wait_requests(1, 10)
    child.interrupt()
    assert child.receive("interrupted") == []
    check_stopped(store, chat_server, id, [], "")
    child.send("end")
    assert child.wait() == 0


@contextmanager
def interrupted_at(store: Store, moment: int) -> Iterator[Callable[[], int]]:
    """Press Ctrl-C at the `moment`th statement or commit of this thread; yield the count of moments."""
    engine = engine_of(store)
    here = threading.get_ident()
    count = 0

    def strike(*_: object) -> None:
        nonlocal count
        if threading.get_ident() == here:
            count += 1
            if count == moment:
                signal.raise_signal(signal.SIGINT)

    hooks = ("before_cursor_execute", "after_cursor_execute", "commit")
    for hook in hooks:
        event.listen(engine, hook, strike)
    try:
        yield lambda: count
    finally:
        for hook in hooks:
            event.remove(engine, hook, strike)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_ctrl_c_at_any_statement_of_a_turn_leaves_the_conversation_free_and_consistent(
    sync_store: Store, chat_server: ChatServer, streamed: bool
) -> None:
    store = sync_store
    id = store.new().id
    store.say(id, "First")
    moment = 0
    while True:
        moment += 1
        before = store.history(id)
        asked = len(chat_server.requests)
        interrupted = False
        with interrupted_at(store, moment) as count:
            try:
                if streamed:
                    with store.stream(id, f"At {moment}") as reply:
                        list(reply)
                else:
                    store.say(id, f"At {moment}")
            except KeyboardInterrupt:
                interrupted = True
        if not interrupted:
            assert count() < moment
            break
        assert store.say(id, "Next", wait=1).text == "You said: Next", f"after Ctrl-C at statement {moment}"
        came = [user(f"At {moment}"), assistant(f"You said: At {moment}")]
        answered = (
            len(chat_server.requests) == asked + 2
        )  # then the reply is not lost, even if Ctrl-C came while it was stored
        expected = [*before, *(came if answered else ()), user("Next"), assistant("You said: Next")]
        assert store.history(id) == expected, f"after Ctrl-C at statement {moment}"
        check_all(engine_of(store))
        store = store.for_owner(f"user-{moment}")
        store.new(id=id)
    assert moment > 14, "every statement was struck, before and after"


# --- what is stored while a reply streams in ---


@contextmanager
def inserts(store: Store) -> Iterator[list[float]]:
    """Collect the times at which rows are inserted into convstore_deltas."""
    times: list[float] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith(("INSERT INTO convstore_deltas", "INSERT INTO public.convstore_deltas")):
            times.append(time.monotonic())

    engine = engine_of(store)
    event.listen(engine, "before_cursor_execute", look)
    try:
        yield times
    finally:
        event.remove(engine, "before_cursor_execute", look)


def test_the_writes_of_a_stream_are_bounded_by_time_and_not_by_its_pieces(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    pieces = [f"{number} " for number in range(2000)]
    chat_server.script(Reply(pieces=pieces, delay=1.5 / 2000))
    with inserts(store) as times:
        began = time.monotonic()
        with store.stream(id, "Count") as reply:
            assert list(reply) == pieces
        seconds = time.monotonic() - began
    assert seconds >= 1.5
    assert 2 <= len(times) <= seconds / FLUSH_SECONDS + 1
    assert all(number <= (at - began) / FLUSH_SECONDS + 1 for number, at in enumerate(times, 1))
    assert stored_deltas(store) == 0
    assert store.history(id)[-1] == assistant("".join(pieces))


def test_a_stream_shorter_than_the_flush_interval_stores_no_delta(
    sync_store: Store, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sync_store
    monkeypatch.setattr("convstore.leases.heartbeat.FLUSH_SECONDS", 8.0)  # none of these takes that long on any machine
    first = store.new().id
    go = held(chat_server, "Hel", "lo")
    with inserts(store) as times, store.stream(first, "Hi") as reply:
        assert next(reply) == "Hel"
        for _ in range(8):
            with store.stream(store.new().id, "Hi") as other:
                list(other)
        go.set()
        assert list(reply) == ["lo"]
        assert times == []


def streaming_child(channel: Channel, url: str, base_url: str, id: str, pieces: int) -> None:
    """Stream until the process is killed."""
    with open_store(url, base_url) as store, store.stream(id, "Hi") as reply:
        for number, _ in enumerate(reply, 1):
            if number == pieces:
                channel.send(["read", reply.text])


def wait_for_text(store: Store, id: str, text: str) -> None:
    """Wait until a reader of the database sees this text of a running reply."""
    seen = ""
    for piece in store.follow(id):
        seen += piece
        if seen == text:
            return
    pytest.fail(f"the stream ended with {seen!r}")


def test_kill_9_keeps_the_flushed_part_and_the_next_call_works(
    sync_store: Store, chat_server: ChatServer, zygote: Zygote, database_url: str
) -> None:
    store = sync_store
    id = store.new().id
    held(chat_server, "Hel", "lo ", "wor", "ld", after=3)
    child = zygote.start(streaming_child, url=database_url, base_url=chat_server.url, id=id, pieces=3)
    assert child.receive("read") == "Hello wor"
    wait_for_text(store, id, "Hello wor")
    child.kill()
    chat_server.script(Reply("Still here."))
    turn = store.say(id, "Next", wait=5)
    assert turn.text == "Still here."
    lost = store.turns(id)[0]
    assert (lost.status, lost.text) == (TurnStatus.INTERRUPTED, "Hello wor")
    assert lost.error is not None
    assert lost.error["type"] == "Abandoned"
    assert chat_server.requests[-1].body["messages"] == [user("Next")]  # a reply that no user stopped is not sent again
    assert stored_deltas(store) == 0


def test_the_flushed_pieces_together_are_the_reply(sync_store: Store, chat_server: ChatServer) -> None:
    store = sync_store
    id = store.new().id
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in "abcd"]
    chat_server.script(Reply(chunks=chunks, delay=0.4, hold=threading.Event(), hold_after=4))
    with store.stream(id, "Hi") as reply:
        assert [next(reply) for _ in range(4)] == ["a", "b", "c", "d"]
        wait_for_text(store, id, "abcd")
        with engine_of(store).connect() as connection:
            rows = connection.execute(select(deltas.c.number).order_by(deltas.c.number)).scalars().all()
        assert len(rows) >= 2
        assert rows == list(range(1, len(rows) + 1))
    assert stored_deltas(store) == 0
