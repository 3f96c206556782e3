"""Test `stream`: what it yields, and what is stored when it ends or is left early."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from convstore import ConversationBusy, ConvstoreError, ReplyStream, Store, TurnStatus
from convstore.testing import ChatServer, Reply
from tests.contract.conftest import ON_ALL_BACKENDS, HeldReply
from tests.contract.test_say import make_assistant, make_user, read_bodies


@ON_ALL_BACKENDS
def test_a_stream_makes_the_same_turn_as_say_and_requests_usage(store: Store, chat_server: ChatServer) -> None:
    for reply in (
        Reply("Hello, world.", id="r", model="m"),
        Reply("x", pieces=["x"], id="r", finish_reason="length"),
        Reply(message={"role": "assistant", "content": "a", "vendor_thoughts": "long enough to be split"}, id="r"),
    ):
        said_to, streamed_to = store.new(system="s").id, store.new(system="s").id
        chat_server.script(reply, reply)
        said = store.say(said_to, "hi", seed=1)
        with store.stream(streamed_to, "hi", seed=1) as pieces:
            text = "".join(pieces)
        streamed = pieces.turn
        assert text == streamed.text == said.text
        assert streamed.message == said.message
        for name in ("status", "seq", "finish_reason", "model", "response_id", "usage", "system_fingerprint"):
            assert getattr(streamed, name) == getattr(said, name), name
        assert store.history(said_to, exact=True) == store.history(streamed_to, exact=True)
        whole, stream = read_bodies(chat_server)[-2:]
        assert stream == {**whole, "stream": True, "stream_options": {"include_usage": True}}


def test_a_stream_yields_each_piece_when_it_arrives(store: Store, hold: Callable[..., HeldReply]) -> None:
    id = store.new().id
    held = hold(pieces=["He", "l", "lo"], content="Hello", hold_after=2)
    with store.stream(id, "hi") as reply:
        assert (next(reply), next(reply)) == ("He", "l")
        assert reply.text == "Hel"
        held.release()
        assert list(reply) == ["lo"]
    assert reply.text == reply.turn.text == "Hello"


def test_a_stream_joins_the_halves_of_a_split_character(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply("a😀b", pieces=["a\ud83d", "\ude00b"]))
    with store.stream(id, "hi") as reply:
        pieces = list(reply)
    assert pieces == ["a", "😀b"]
    assert store.history(id) == [make_user("hi"), make_assistant("a😀b")]


def test_a_stream_has_no_turn_before_its_end(store: Store) -> None:
    id = store.new().id
    reply = store.stream(id, "hi")
    with pytest.raises(ConvstoreError, match="not over"):
        _ = reply.turn
    with reply:
        with pytest.raises(ConvstoreError, match="not over"):
            _ = reply.turn
        next(reply)
        with pytest.raises(ConvstoreError, match="not over"):
            _ = reply.turn
        list(reply)
        assert reply.turn.status is TurnStatus.COMPLETED


def test_a_stream_that_is_not_entered_does_nothing(store: Store, chat_server: ChatServer) -> None:
    made = store.new()
    reply = store.stream(made.id, "hi")
    reply.close()
    assert list(reply) == []
    with pytest.raises(ConvstoreError):
        _ = reply.turn
    store.stream(made.id, "and this one is forgotten")
    gc.collect()
    assert (store.get(made.id), store.turns(made.id), store.messages(made.id)) == (made, [], [])
    assert chat_server.requests == []


def test_a_second_iteration_yields_nothing(store: Store) -> None:
    id = store.new().id
    with store.stream(id, "hi") as reply:
        assert "".join(reply) == "You said: hi"
        assert list(reply) == []
    assert list(reply) == []
    assert len(store.turns(id)) == 1


def test_a_stream_works_without_a_with_block(store: Store) -> None:
    id = store.new().id
    reply = store.stream(id, "hi")
    assert "".join(reply) == "You said: hi"
    assert reply.turn.status is TurnStatus.COMPLETED
    reply.close()
    assert len(store.messages(id)) == 2


@ON_ALL_BACKENDS
def test_leaving_early_keeps_the_partial_reply_on_the_path_and_closes_the_connection(
    store: Store, chat_server: ChatServer, hold: Callable[..., HeldReply]
) -> None:
    id = store.new().id
    hold("The answer is long.", pieces=["The answer", " is long."], hold_after=1)
    with store.stream(id, "question") as reply:
        assert next(reply) == "The answer"
    assert chat_server.wait_disconnect()
    turn = reply.turn
    assert (turn.status, turn.text, turn.finish_reason) == (TurnStatus.INTERRUPTED, "The answer", None)
    assert turn.error is not None
    assert store.turns(id)[0].error == turn.error
    assert store.history(id) == [make_user("question"), make_assistant("The answer")]
    store.say(id, "go on")
    assert read_bodies(chat_server)[-1]["messages"] == [
        make_user("question"),
        make_assistant("The answer"),
        make_user("go on"),
    ]


def test_leaving_before_the_first_piece_leaves_the_turn_unanswered(
    store: Store, chat_server: ChatServer, hold: Callable[..., HeldReply]
) -> None:
    id = store.new(system="s").id
    opening = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    hold("", chunks=[{"choices": [opening]}], hold_after=1)
    with store.stream(id, "question") as reply:
        pass
    assert (reply.turn.status, reply.turn.message) == (TurnStatus.INTERRUPTED, None)
    assert store.history(id) == [{"role": "system", "content": "s"}]
    assert [record.message for record in store.input_of(store.unanswered(id)[0])] == [make_user("question")]
    store.say(id, "again")
    assert read_bodies(chat_server)[-1]["messages"] == [{"role": "system", "content": "s"}, make_user("again")]


def test_a_second_close_does_nothing(store: Store, hold: Callable[..., HeldReply]) -> None:
    id = store.new().id
    hold(pieces=["a", "b"], content="ab", hold_after=1)
    with store.stream(id, "hi") as reply:
        next(reply)
        reply.close()
        reply.close()
        assert list(reply) == []
    reply.close()
    assert [turn.status for turn in store.turns(id)] == [TurnStatus.INTERRUPTED]
    assert store.history(id) == [make_user("hi"), make_assistant("a")]


@pytest.mark.parametrize("error", [ValueError("the consumer's own"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_an_exception_in_the_callers_loop_interrupts_the_turn_and_is_raised(
    store: Store, chat_server: ChatServer, hold: Callable[..., HeldReply], error: BaseException
) -> None:
    id = store.new().id
    hold(pieces=["one", "two"], content="onetwo", hold_after=1)
    reply = store.stream(id, "hi")
    with pytest.raises(type(error)) as caught:
        _fail_at_the_first_piece(reply, error)
    assert caught.value is error
    assert chat_server.wait_disconnect()
    assert (reply.turn.status, reply.turn.text) == (TurnStatus.INTERRUPTED, "one")
    assert store.history(id) == [make_user("hi"), make_assistant("one")]


def _fail_at_the_first_piece(reply: ReplyStream, error: BaseException) -> None:
    with reply:
        for _ in reply:
            raise error


def test_leaving_between_the_last_piece_and_the_end_interrupts_the_turn(
    store: Store, hold: Callable[..., HeldReply]
) -> None:
    id = store.new().id
    hold(pieces=["all", " of it"], content="all of it", hold_after=2)
    with store.stream(id, "hi") as reply:
        assert (next(reply), next(reply)) == ("all", " of it")
    assert (reply.turn.status, reply.turn.text) == (TurnStatus.INTERRUPTED, "all of it")


def test_a_partial_tool_call_is_not_sent_later(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city": "a long name"}'}}
    message = {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}
    chat_server.script(Reply(message=message, delay=0.02))
    with store.stream(id, "hi") as reply:
        for _ in range(3):
            next(reply)
    store.say(id, "again")
    sent = read_bodies(chat_server)[-1]["messages"]
    assert all("tool_calls" not in said or said["tool_calls"] == [call] for said in sent)


@ON_ALL_BACKENDS
def test_a_stream_holds_its_conversation_until_it_ends(store: Store, hold: Callable[..., HeldReply]) -> None:
    id = store.new().id
    hold(pieces=["a", "b"], content="ab", hold_after=1)
    with store.stream(id, "first") as reply:
        next(reply)
        with pytest.raises(ConversationBusy, match=id):
            store.say(id, "second", wait=0)
        with pytest.raises(ConversationBusy, match=id), store.stream(id, "third", wait=0):
            pass
        assert store.history(id) == []
        assert [turn.status for turn in store.turns(id)] == [TurnStatus.RUNNING]
    assert store.say(id, "fourth", wait=0).text == "You said: fourth"
    assert [message["content"] for message in store.history(id)] == ["first", "a", "fourth", "You said: fourth"]


def test_another_caller_waits_until_the_stream_ends(
    store: Store, hold: Callable[..., HeldReply], run_in_thread: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    id = store.new().id
    held = hold(pieces=["a", "b"], content="ab", hold_after=1)
    with store.stream(id, "first") as reply:
        next(reply)
        second = run_in_thread(lambda: store.say(id, "second"))
        held.release()
        list(reply)
    assert second.result(60).base_seq == reply.turn.output_seq
    assert [m["content"] for m in store.history(id)] == ["first", "ab", "second", "You said: second"]


@ON_ALL_BACKENDS
def test_several_streams_of_one_store_run_at_the_same_time(store: Store) -> None:
    ids = [store.new().id for _ in range(3)]
    replies = [store.stream(id, f"to {id}") for id in ids]
    texts = ["", "", ""]
    for reply in replies:
        reply.__enter__()
    for _ in range(40):
        for place, reply in enumerate(replies):
            texts[place] += next(reply, "")
    assert texts == [f"You said: to {id}" for id in ids]
    assert {reply.turn.status for reply in replies} == {TurnStatus.COMPLETED}
