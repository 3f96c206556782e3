"""Test idempotency keys: what a key identifies, when it is used, and when it is free again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from convstore import (
    ConversationBusy,
    ConversationExists,
    IdempotencyMismatch,
    InvalidParameter,
    ReplyInterrupted,
    Store,
    Turn,
    TurnFailed,
)
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.invariants import check_all
from tests.faults.driven import client, engine_of, opened


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


def say(store: Store, id: str, message: object, **options: Any) -> Turn:
    return store.say(id, message, **options)


def stream(store: Store, id: str, message: object, **options: Any) -> Turn:
    with store.stream(id, message, **options) as reply:
        pieces = list(reply)
    assert "".join(pieces) == reply.turn.text
    return reply.turn


BOTH = pytest.mark.parametrize("ask", [say, stream])


# --- say and stream ---


@BOTH
def test_a_used_key_returns_the_stored_reply_without_a_call(
    store: Store, chat_server: ChatServer, ask: Callable[..., Turn]
) -> None:
    id = store.new().id
    chat_server.script(Reply("Hello there, you."))
    first = ask(store, id, "Hi", idempotency_key="k")
    assert (first.status, first.idempotency_key) == ("completed", "k")
    assert say(store, id, "Hi", idempotency_key="k") == first
    with store.stream(id, "Hi", idempotency_key="k") as reply:
        assert list(reply) == ["Hello there, you."]  # in one piece, because the whole reply is stored
    assert reply.turn == first
    assert reply.text == first.text
    assert len(chat_server.requests) == 1
    assert store.turns(id) == [first]
    assert len(store.history(id)) == 2


@BOTH
def test_a_used_key_returns_the_reply_after_later_turns_and_while_another_runs(
    store: Store, chat_server: ChatServer, sqlite_url: str, ask: Callable[..., Turn]
) -> None:
    id = store.new().id
    first = say(store, id, "Hi", idempotency_key="k")
    say(store, id, "Next")
    go = threading.Event()
    chat_server.script(Reply(pieces=["a", "b"], hold=go, hold_after=1))
    with store.stream(id, "Long") as running:
        assert next(running) == "a"
        assert ask(store, id, "Hi", idempotency_key="k", wait=0) == first
        with pytest.raises(ConversationBusy):
            ask(store, id, "Hi", idempotency_key="another", wait=0)
        go.set()
        assert list(running) == ["b"]
    assert len(chat_server.requests) == 3


@BOTH
def test_after_a_failed_turn_the_key_is_free(store: Store, chat_server: ChatServer, ask: Callable[..., Turn]) -> None:
    id = store.new().id
    chat_server.script(Failure(500), Failure(500), Reply("Hello"))
    for _ in range(2):
        with pytest.raises(TurnFailed):
            ask(store, id, "Hi", idempotency_key="k")
    assert ask(store, id, "Hi", idempotency_key="k").text == "Hello"
    assert ask(store, id, "Hi", idempotency_key="k").text == "Hello"
    assert len(chat_server.requests) == 3
    assert [turn.status for turn in store.turns(id)] == ["failed", "failed", "completed"]
    assert {turn.idempotency_key for turn in store.turns(id)} == {"k"}
    assert [message["content"] for message in store.history(id)] == ["Hi", "Hello"]


@BOTH
def test_after_a_failed_turn_the_key_is_free_for_other_input_too(
    store: Store, chat_server: ChatServer, ask: Callable[..., Turn]
) -> None:
    id = store.new().id
    chat_server.script(Failure(500))
    with pytest.raises(TurnFailed):
        ask(store, id, "Hi", idempotency_key="k")
    assert ask(store, id, "Bye", idempotency_key="k").text == "You said: Bye"


def test_after_an_interrupted_turn_the_key_is_free(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply("Hello", finish_reason=None))
    with pytest.raises(ReplyInterrupted):
        stream(store, id, "Hi", idempotency_key="k")
    chat_server.script(Reply(pieces=["Hel", "lo"], hold=threading.Event(), hold_after=1))
    with store.stream(id, "Hi", idempotency_key="k") as reply:
        next(reply)
    chat_server.script(Reply("Hello"))
    assert stream(store, id, "Hi", idempotency_key="k").text == "Hello"
    assert [turn.status for turn in store.turns(id)] == ["interrupted", "interrupted", "completed"]
    assert len(chat_server.requests) == 3


OTHER_INPUT: tuple[dict[str, Any], ...] = (
    {"message": "Hello"},
    {"message": [{"type": "text", "text": "Hi"}]},
    {"message": [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}]},
    {"name": "ann"},
    {"system": "Be brief."},
    {"temperature": 0.5},
    {"seed": 7},
    {"history": False},
)


@BOTH
def test_the_same_key_with_other_input_is_an_error(
    store: Store, chat_server: ChatServer, ask: Callable[..., Turn]
) -> None:
    id = store.new().id
    first = say(store, id, "Hi", idempotency_key="k")
    for other in OTHER_INPUT:
        with pytest.raises(IdempotencyMismatch, match="'k' was used for turn 1"):
            ask(store, id, idempotency_key="k", **{"message": "Hi", **other})
    assert store.turns(id) == [first]
    assert len(chat_server.requests) == 1


def test_the_same_key_with_other_input_is_an_error_while_the_first_still_runs(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    go = threading.Event()
    chat_server.script(Reply(pieces=["a", "b"], hold=go, hold_after=1))
    with store.stream(id, "Hi", idempotency_key="k") as reply:
        next(reply)
        with pytest.raises(IdempotencyMismatch):
            say(store, id, "Bye", idempotency_key="k")
        go.set()
        list(reply)
    assert len(chat_server.requests) == 1


def test_sticky_parameters_and_call_options_do_not_belong_to_the_input_of_a_key(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new(model="one", temperature=0.1).id
    first = say(store, id, "Hi", idempotency_key="k")
    store.set(id, model="two", temperature=1.5, seed=3)
    assert say(store, id, "Hi", idempotency_key="k", timeout=5, extra_headers={"X-Try": "2"}) == first
    assert len(chat_server.requests) == 1


def test_the_same_parameters_in_another_order_are_the_same_input(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    first = say(store, id, "Hi", idempotency_key="k", seed=1, user="u")
    assert say(store, id, "Hi", idempotency_key="k", user="u", seed=1) == first
    assert say(store, id, {"content": "Hi", "role": "user"}, idempotency_key="k", user="u", seed=1) == first
    assert len(chat_server.requests) == 1


def test_keys_belong_to_one_conversation_of_one_owner(store: Store, chat_server: ChatServer) -> None:
    store.new(id="one")
    store.new(id="two")
    other = store.for_owner("ann")
    other.new(id="one")
    texts = []
    for where, id in ((store, "one"), (store, "two"), (other, "one")):
        texts.append(say(where, id, f"{id} of {where.owner}", idempotency_key="k").text)
    assert texts == ["You said: one of ", "You said: two of ", "You said: one of ann"]
    assert len(chat_server.requests) == 3


def test_a_second_call_with_a_running_key_waits_and_returns_the_same_reply(
    sync_store: Store, chat_server: ChatServer, database_url: str
) -> None:
    store = sync_store
    id = store.new().id
    go, begun = threading.Event(), threading.Event()
    chat_server.script(Reply("Once.", hold=go, started=begun))
    with (
        client(chat_server) as caller,
        Store(database_url, client=caller, model="test-model") as elsewhere,
        ThreadPoolExecutor(4) as threads,
    ):
        first = threads.submit(say, store, id, "Hi", idempotency_key="k")
        assert begun.wait(60)
        others = [threads.submit(ask, elsewhere, id, "Hi", idempotency_key="k") for ask in (say, stream)]
        go.set()
        assert [other.result(60) for other in others] == [first.result(60)] * 2
    assert len(chat_server.requests) == 1


def test_after_a_failure_the_waiting_call_with_the_same_key_calls_the_model(
    sync_store: Store, chat_server: ChatServer
) -> None:
    store = sync_store
    id = store.new().id
    go, begun = threading.Event(), threading.Event()
    chat_server.script(Reply(pieces=["a", "b"], cut_after=0, hold=go, started=begun), Reply("Second try."))
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(stream, store, id, "Hi", idempotency_key="k")
        assert begun.wait(60)
        second = threads.submit(say, store, id, "Hi", idempotency_key="k")
        go.set()
        with pytest.raises(TurnFailed):
            first.result(60)
        assert second.result(60).text == "Second try."
    assert [turn.status for turn in store.turns(id)] == ["failed", "completed"]


def test_an_invalid_key_is_refused_and_nothing_is_stored(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    impossible: list[Any] = ["", "k" * 256, "a\0b", "a\nb", "\ud800", 7, b"k"]
    for key in impossible:
        for put in (store.say, store.append, partial(stream, store)):
            with pytest.raises(InvalidParameter, match="an idempotency key is 1 to 255 bytes"):
                put(id, "Hi", idempotency_key=key)
    assert store.turns(id) == []
    assert chat_server.requests == []


def test_a_key_may_be_any_printable_text(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    keys = ["k" * 255, "会" * 85, "a key with spaces", "'; --", "%s :x ?", "🦊", "K", "k"]
    for key in keys:
        first = say(store, id, "Hi", idempotency_key=key)
        assert first.idempotency_key == key
        assert say(store, id, "Hi", idempotency_key=key) == first
    assert len(chat_server.requests) == len(keys)


# --- append ---


def test_appending_again_with_a_key_returns_the_stored_messages(store: Store) -> None:
    id = store.new(system="S").id
    first = store.append(id, "one", {"role": "assistant", "content": "two"}, idempotency_key="k")
    assert [record.position for record in first] == [2, 3]
    store.append(id, "three")
    again = store.append(id, "one", {"role": "assistant", "content": "two"}, idempotency_key="k")
    assert again == first
    assert [message["content"] for message in store.history(id)] == ["S", "one", "two", "three"]
    (turn,) = store.turns(id)
    assert (turn.status, turn.idempotency_key) == ("completed", "k")
    assert store.input_of(turn) == first


def test_appending_a_completion_again_with_a_key_returns_its_message(store: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": "Hi"}]).id
    completion = {
        "id": "c1",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"total_tokens": 3},
    }
    first = store.append(id, completion, idempotency_key="k")
    assert store.append(id, completion, idempotency_key="k") == first
    (turn,) = store.turns(id)
    assert (turn.text, turn.usage, turn.idempotency_key) == ("Hello", {"total_tokens": 3}, "k")


def test_appending_something_else_with_a_key_is_an_error(store: Store) -> None:
    id = store.new().id
    store.append(id, "one", idempotency_key="k")
    for other in (["two"], ["one", "one"], [{"role": "user", "content": "one", "name": "ann"}]):
        with pytest.raises(IdempotencyMismatch):
            store.append(id, *other, idempotency_key="k")
    assert len(store.history(id)) == 1


def test_a_key_of_append_is_not_a_key_of_say(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    store.append(id, "Hi", idempotency_key="a")
    with pytest.raises(IdempotencyMismatch):
        say(store, id, "Hi", idempotency_key="a")
    say(store, id, "Hi", idempotency_key="s")
    with pytest.raises(IdempotencyMismatch):
        store.append(id, "Hi", idempotency_key="s")
    assert len(chat_server.requests) == 1


def test_a_retry_does_not_repeat_an_append_with_a_key(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    say(store, id, "Question")
    store.append(id, "Remark", idempotency_key="k")
    chat_server.script(Reply("Again."))
    store.retry(id)
    assert [message["content"] for message in store.history(id)] == [
        "Question",
        "You said: Question",
        "Remark",
        "Question",
        "Again.",
    ]


# --- new ---


def test_making_the_same_conversation_again_returns_it_with_its_later_turns(
    store: Store, chat_server: ChatServer
) -> None:
    content: dict[str, Any] = {
        "title": "Games",
        "system": "S",
        "messages": [{"role": "user", "content": "Hi"}],
        "name": "games",
        "metadata": {"a": [1]},
        "model": "m",
        "temperature": 0.5,
    }
    first = store.new(id="x", **content)
    assert store.new(id="x", **content) == first
    say(store, "x", "More")
    store.set("x", title="Renamed", name="other", temperature=1)
    again = store.new(id="x", **content)
    assert again == store.get("x")
    assert (again.title, again.length) == ("Renamed", 4)
    assert len(store.list()) == 1


def test_making_another_conversation_under_a_taken_id_is_an_error(store: Store) -> None:
    content: dict[str, Any] = {"title": "Games", "system": "S", "name": "games", "metadata": {"a": 1}, "model": "m"}
    first = store.new(id="x", **content)
    others: list[dict[str, Any]] = [
        {"title": "Other"},
        {"system": "Other"},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"name": "other"},
        {"metadata": {"a": 2}},
        {"model": "other"},
        {"seed": 1},
    ]
    for other in others:
        with pytest.raises(ConversationExists):
            store.new(id="x", **{**content, **other})
    assert store.list() == [first]


def test_the_same_id_of_another_owner_is_another_conversation(store: Store) -> None:
    store.new(id="x", title="Mine")
    assert store.for_owner("ann").new(id="x", title="Hers").title == "Hers"
    assert store.get("x").title == "Mine"


def test_many_at_once_make_one_conversation(sync_store: Store) -> None:
    store = sync_store
    with ThreadPoolExecutor(16) as threads:
        made = list(threads.map(lambda _: store.new(id="x", system="S", name="n"), range(32)))
    assert len({(conversation.id, conversation.created_at) for conversation in made}) == 1
    assert len(store.history("x")) == 1
