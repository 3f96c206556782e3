"""Test edits, completions, compactions and trimmed calls that are cut off: the received part is kept in its place."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from convstore import Store, Turn, TurnStatus, tool_result
from convstore.testing import ChatServer, Failure, Reply
from convstore.testing.responses import JSONObject, Response, echo
from convstore.turns import sync_runner
from tests.contract.invariants import check_all
from tests.faults.driven import engine_of, opened
from tests.faults.test_interruption import held, interrupted_at
from tests.faults.windows import check_requests

CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLS = Reply(message={"role": "assistant", "content": None, "tool_calls": [CALL]}, finish_reason="tool_calls")


@pytest.fixture(params=["sync", "async"])
def store(request: pytest.FixtureRequest, database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with opened(str(request.param), database_url, chat_server) as store:
        yield store
        check_all(engine_of(store))


@pytest.fixture
def sync_store(database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with opened("sync", database_url, chat_server) as store:
        yield store
        check_all(engine_of(store))


def spoken(store: Store, number: int = 3) -> str:
    id = store.new().id
    for said in range(number):
        store.say(id, f"Question {said}")
    return id


def texts(store: Store, id: str) -> list[Any]:
    return [message.get("content") for message in store.history(id)]


def check_stopped(store: Store, id: str, text: str) -> Turn:
    turn = store.turns(id)[-1]
    assert (turn.status, turn.text) == (TurnStatus.INTERRUPTED, text)
    assert turn.error is not None
    assert turn.error["type"] == "Stopped"
    return turn


# --- streams that are closed early ---


def test_an_edit_closed_early_keeps_its_partial_reply_and_undo_and_checkout_work(
    store: Store, chat_server: ChatServer
) -> None:
    id = spoken(store)
    before, head = texts(store, id), store.get(id).head_seq
    held(chat_server, "Hel", "lo")
    with store.edit_stream(id, 3, "Otherwise") as reply:
        assert next(reply) == "Hel"
    check_stopped(store, id, "Hel")
    assert texts(store, id) == [*before[:2], "Otherwise", "Hel"]
    assert store.say(id, "Next", wait=0).text == "You said: Next"
    assert check_requests(store, chat_server, id) == 5
    store.checkout(id, head)
    assert texts(store, id) == before
    assert store.retry(id).text == "You said: Question 2"


def test_an_edit_closed_before_its_first_piece_does_not_change_the_path(store: Store, chat_server: ChatServer) -> None:
    id = spoken(store)
    before, head = texts(store, id), store.get(id).head_seq
    nothing = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    held(chat_server, "", chunks=[nothing, nothing])
    with store.edit_stream(id, 3, "Otherwise"):
        pass
    check_stopped(store, id, "")
    assert (texts(store, id), store.get(id).head_seq) == (before, head)
    assert store.retry(id).text == "You said: Otherwise"
    assert texts(store, id) == [*before[:2], "Otherwise", "You said: Otherwise"]


def test_a_completion_closed_early_keeps_its_partial_reply(store: Store, chat_server: ChatServer) -> None:
    id = spoken(store, 1)
    chat_server.script(CALLS)
    store.say(id, "Look it up")
    store.append(id, tool_result("call_1", "Found"))
    before = texts(store, id)
    held(chat_server, "It ", "says")
    with store.complete_stream(id) as reply:
        assert next(reply) == "It "
    check_stopped(store, id, "It ")
    assert texts(store, id) == [*before, "It "]
    # A retry beside the partial reply: the results of the tools are sent again.
    assert store.retry(id).text == "You said: Look it up"
    assert chat_server.requests[-1].body["messages"][-1] == tool_result("call_1", "Found")
    assert texts(store, id) == [*before, "You said: Look it up"]
    assert [record.message["content"] for record in store.tree(id)][-2:] == ["It ", "You said: Look it up"]


@pytest.mark.parametrize("way", ["edit", "complete", "retry"])
def test_a_dropped_stream_does_not_hold_its_conversation(way: str, sync_store: Store, chat_server: ChatServer) -> None:
    store = sync_store
    id = spoken(store, 2)
    if way == "complete":
        store.append(id, "And?")
    ways: dict[str, Callable[[], Any]] = {
        "edit": lambda: store.edit_stream(id, 3, "Otherwise"),
        "complete": lambda: store.complete_stream(id),
        "retry": lambda: store.retry_stream(id),
    }
    before = texts(store, id)
    held(chat_server, "Hel", "lo")
    for _ in ways[way]():
        break
    gc.collect()
    assert store.say(id, "Next", wait=10).text == "You said: Next"
    kept = {"edit": [*before[:2], "Otherwise"], "complete": before, "retry": before[:3]}[way]
    assert texts(store, id) == [*kept, "Hel", "Next", "You said: Next"]
    assert store.turns(id)[-2].status is TurnStatus.INTERRUPTED


def test_streams_of_edits_and_completions_that_are_never_read_do_not_call_the_model(
    store: Store, chat_server: ChatServer
) -> None:
    id = spoken(store, 1)
    before = (store.tree(id), store.turns(id), len(chat_server.requests))
    store.edit_stream(id, 1, "Otherwise").close()
    store.complete_stream(id).close()
    assert (store.tree(id), store.turns(id), len(chat_server.requests)) == before


# --- Ctrl-C at any moment ---


@pytest.mark.parametrize("way", ["edit", "complete", "compact", "undo", "fork"])
def test_ctrl_c_at_any_statement_leaves_the_conversation_free_and_consistent(
    way: str, sync_store: Store, chat_server: ChatServer
) -> None:
    store = sync_store
    ways: dict[str, Callable[[str], object]] = {
        "edit": lambda id: store.edit(id, 3, "Otherwise"),
        "complete": store.complete,
        "compact": lambda id: store.compact(id, keep_last=1),
        "undo": store.undo,
        "fork": lambda id: store.fork(id, new_id=f"{id}-fork"),
    }
    base: list[dict[str, Any]] = [
        {"role": role, "content": f"{role} {number}"} for number in range(2) for role in ("user", "assistant")
    ]
    base += [{"role": "user", "content": "And?"}] if way == "complete" else []
    before = [message["content"] for message in base]
    reached = {
        "edit": [*before[:2], "Otherwise", "You said: Otherwise"],
        "complete": [*before, "You said: And?"],
        "undo": before[:2],
    }.get(way, before)
    moment, outcomes = 0, set()
    while True:
        moment += 1
        id = store.new(id=f"struck-at-{moment}", messages=base).id
        interrupted = False
        with interrupted_at(store, moment) as count:
            try:
                ways[way](id)
            except KeyboardInterrupt:
                interrupted = True
        if not interrupted:
            assert count() < moment
            break
        where = f"after Ctrl-C at {moment}"
        path = texts(store, id)
        assert path in (before, reached), where
        present = store.summary(id)
        forks = [one.id for one in store.list(limit=None) if one.id == f"{id}-fork"]
        outcomes.add((path == reached, present is not None, bool(forks)))
        assert store.say(id, "Next", wait=1).text == "You said: Next", where
        for fork in forks:
            assert texts(store, fork) == before
        asked = chat_server.requests[-1].body["messages"]
        done = present.up_to_position if present is not None else 0
        assert [message["content"] for message in asked][2 if done else 0 :] == [*path[done:], "Next"], where
    check_all(engine_of(store))
    assert moment >= 8
    assert len(outcomes) == (2 if way in ("edit", "complete", "compact") else 1)  # not done, with several commits too
    assert len({turn.status for turn in store.turns(id)} - {TurnStatus.COMPLETED}) == 0


# --- a request that is trimmed, and stopped between its two calls ---

TOO_LONG = Failure(400, "This model's maximum context length is 50 tokens.", code="context_length_exceeded")


def of_five_at_most(body: JSONObject) -> Response:
    return TOO_LONG if len(body["messages"]) > 5 else echo(body)


def _interrupt(*_: object) -> None:
    """Press Ctrl-C in the pause before a call is repeated."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("streamed", [False, True])
def test_ctrl_c_between_a_call_and_its_trimmed_repetition_is_a_stop(
    streamed: bool, sync_store: Store, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sync_store
    id = spoken(store)
    before = texts(store, id)
    chat_server.otherwise = of_five_at_most
    asked = len(chat_server.requests)
    trim: dict[str, Any] = {"on_overflow": "trim"}
    with monkeypatch.context() as patched:
        patched.setattr(sync_runner, "wait", _interrupt)
        ask = (lambda: next(store.stream(id, "Long", **trim))) if streamed else (lambda: store.say(id, "Long", **trim))
        with pytest.raises(KeyboardInterrupt):
            ask()
    assert len(chat_server.requests) == asked + 1
    turn = check_stopped(store, id, "")
    assert len(turn.attempts) == 1
    assert texts(store, id) == before
    again = store.retry(id)  # with the options of the turn
    assert again.text == "You said: Long"
    assert again.window is not None
    assert again.window.left_out > 0
    assert texts(store, id) == [*before, "Long", "You said: Long"]


def test_a_trimmed_stream_closed_early_keeps_its_partial_reply_and_reports_its_window(
    store: Store, chat_server: ChatServer
) -> None:
    id = spoken(store)
    before = texts(store, id)
    chat_server.script(TOO_LONG)
    held(chat_server, "Hel", "lo")
    with store.stream(id, "Long", on_overflow="trim") as reply:
        assert next(reply) == "Hel"
    turn = check_stopped(store, id, "Hel")
    assert texts(store, id) == [*before, "Long", "Hel"]
    assert turn.window is not None
    assert turn.window.left_out == 6 - turn.window.history
    assert len(chat_server.requests[-1].body["messages"]) == turn.window.history + 1
