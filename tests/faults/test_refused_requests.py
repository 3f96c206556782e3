"""Requests that a provider refuses, and odd answers to a caller's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from math import inf, nan
from typing import Any, cast

import pytest

from convstore import InvalidInput, ReplyInterrupted, Store, TurnFailed, tool_result
from convstore.testing import ChatServer, Failure, Raw, Reply
from tests.contract.invariants import check_all
from tests.faults.driven import engine_of, opened
from tests.faults.test_provider_faults import MODES, ask, assistant, chunk, recorded, sent, user
from tests.pure.strict_request import find_faults


@pytest.fixture(params=[("sync", True), ("async", True), ("sync", False), ("async", False)], ids=str)
def store(request: pytest.FixtureRequest, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Yield a store of each kind, with a client of convstore's and with a caller's own."""
    kind, made = request.param
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with opened(kind, "sqlite://", chat_server, made=made) as store:
        yield store
        check_all(engine_of(store))


@MODES
@pytest.mark.parametrize(
    "text",
    [
        "Invalid value for messages[3].content: expected a non-empty string",
        "messages.3: text content blocks must be non-empty",
        "Invalid request",  # by the rules: the only one that a strict server may refuse
    ],
)
def test_the_error_of_a_refused_request_names_the_likely_message(
    store: Store, chat_server: ChatServer, streamed: bool, text: str
) -> None:
    id = store.new(messages=[user("a"), assistant("b"), user("c"), assistant(""), user("d"), assistant("e")]).id
    chat_server.script(Failure(400, text))
    with pytest.raises(TurnFailed, match=r"probably because of message 4: its text is empty: go back") as caught:
        ask(store, id, "Hi", streamed=streamed)
    assert text in str(caught.value)
    assert caught.value.turn.error is not None
    assert caught.value.turn.error["suspect"] == "message 4: its text is empty"
    assert recorded(store, id).error == caught.value.turn.error
    chat_server.script(Failure(401, text))
    with pytest.raises(TurnFailed) as caught:
        ask(store, id, "Hi", streamed=streamed)
    assert caught.value.turn.error is not None
    assert "suspect" not in caught.value.turn.error


def test_the_message_is_named_by_its_position_whatever_else_was_sent(store: Store, chat_server: ChatServer) -> None:
    call = {"id": "call_abc", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
    id = store.new(messages=[user("a"), asked, user("c"), assistant("d")], fill_missing_tools=True).id
    chat_server.script(Failure(400, "messages[4] is odd"))  # behind a placeholder
    with pytest.raises(TurnFailed, match="because of message 4: go back"):
        store.say(id, "Hi")
    chat_server.script(Failure(422, "No tool output found for function call call_abc."))
    with pytest.raises(TurnFailed, match="because of message 2: go back"):
        store.say(id, "Hi")
    chat_server.script(Failure(400, "Not today, messages[70]"))
    with pytest.raises(TurnFailed) as caught:
        store.say(id, "Hi")
    assert "because of" not in str(caught.value)
    chat_server.script(Failure(400, "messages[5].content: too rude"))
    with pytest.raises(TurnFailed, match=r"because of the new message. The message is stored"):
        store.say(id, "Hi")


def test_a_request_that_was_too_long_has_no_suspect(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=[user("a"), assistant("")]).id
    text = "This model's maximum context length is 10 tokens. However, your messages resulted in 20 tokens."
    chat_server.script(Failure(400, text, code="context_length_exceeded"))
    with pytest.raises(TurnFailed, match="maximum context length") as caught:
        store.say(id, "Hi")
    assert "because of" not in str(caught.value)


@pytest.mark.parametrize(
    "event",
    [
        {"object": "error", "message": "CUDA out of memory", "type": "server_error", "code": 500},
        {"error": {"message": "CUDA out of memory", "code": 500}},
        {"error": "CUDA out of memory"},
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_error_in_a_stream_keeps_the_providers_text_with_any_client(
    store: Store, chat_server: ChatServer, event: dict[str, Any], first: bool
) -> None:
    id = store.new().id
    begin = b"" if first else b'data: {"choices": [{"index": 0, "delta": {"content": "Hel"}}]}\n\n'
    body = begin + f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()
    chat_server.script(Raw(body, content_type="text/event-stream"))
    with pytest.raises(TurnFailed, match="CUDA out of memory") as caught:
        ask(store, id, "Hi", streamed=True)
    assert isinstance(caught.value, ReplyInterrupted) is not first
    assert recorded(store, id).text == ("" if first else "Hel")


@pytest.mark.parametrize("value", ["NaN", "1e999", "[" * 150 + "]" * 150], ids=lambda value: value[:5])
def test_an_odd_value_loses_nothing_of_a_stream_with_any_client(
    store: Store, chat_server: ChatServer, value: str
) -> None:
    id = store.new().id
    chunks = [
        f'{{"choices": [{{"index": 0, "delta": {{"content": "Hello"}}}}], "x": {{"y": {value}}}}}',
        '{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"total_tokens": 5}}',
    ]
    chat_server.script(Raw("".join(f"data: {one}\n\n" for one in chunks), content_type="text/event-stream"))
    turn = ask(store, id, "Hi", streamed=True)
    assert (turn.status, turn.text, turn.usage) == ("completed", "Hello", {"total_tokens": 5})
    assert [note[:20] for note in turn.notes] == ["kept as text: x.y.0." if value[0] == "[" else "kept as text: x.y"]
    assert recorded(store, id).response_fields == turn.response_fields


@MODES
def test_many_odd_values_make_one_note(store: Store, chat_server: ChatServer, streamed: bool) -> None:
    id = store.new().id
    end = '"finish_reason": "stop", "scores": [' + ", ".join(["NaN"] * 1000) + "]"
    if streamed:
        body = f'data: {{"choices": [{{"index": 0, "delta": {{"content": "Hi"}}, {end}}}]}}\n\ndata: [DONE]\n\n'
        chat_server.script(Raw(body, content_type="text/event-stream"))
    else:
        chat_server.script(Raw(f'{{"choices": [{{"index": 0, "message": {{"content": "Hi"}}, {end}}}]}}'))
    (note,) = ask(store, id, "Hi", streamed=streamed).notes
    assert note.endswith("choices.0.scores.7 and 992 more")


def test_two_calls_on_one_index_without_ids_are_kept_and_never_sent_as_one(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    pieces = [{"index": 0, "function": {"name": "look", "arguments": text}} for text in ('{"p":1}', '{"p":2}')]
    chunks = [{"choices": [{"delta": {"tool_calls": [piece]}}]} for piece in pieces]
    chat_server.script(Reply(chunks=[*chunks, chunk(finish="tool_calls")]))
    turn = ask(store, id, "Hi", streamed=True)
    assert turn.message is not None
    assert turn.message["tool_calls"][0]["function"]["arguments"] == '{"p":1}{"p":2}'
    assert store.pending_calls(id) == []
    ask(store, id, "On", streamed=True)
    assert find_faults(sent(chat_server)) == []


def test_a_call_without_an_id_is_answered_for_pins_and_for_going_on(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    call = {"id": None, "type": "function", "function": {"name": "look", "arguments": None}}
    chat_server.script(Reply(message={"role": "assistant", "content": None, "tool_calls": [call]}))
    store.say(id, "Hi")
    with pytest.raises(InvalidInput, match="have no results yet"):
        store.pin(id, 2)
    store.append(id, tool_result(store.pending_calls(id)[0]["id"], "21"))
    store.pin(id, 2)
    store.complete(id)
    assert find_faults(sent(chat_server)) == []


def test_after_a_broken_call_there_is_nothing_to_go_on_from(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"p": "/tm'}}
    chat_server.script(Reply(message={"role": "assistant", "content": None, "tool_calls": [call]}))
    store.say(id, "Hi")
    with pytest.raises(InvalidInput, match="there is nothing to go on from"):
        store.complete(id)
    assert len(chat_server.requests) == 1


class MinimalClient:
    """A caller's own client with nothing but `create`, which answers with dicts."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.chat = self.completions = self

    def create(self, **_: Any) -> Any:
        return self.answer


@MODES
def test_odd_values_from_a_minimal_client_are_kept_as_text(streamed: bool) -> None:
    choice = {"index": 0, "finish_reason": "stop", "score": nan, "at": (1, date(2026, 1, 2))}
    spoken = {"content": "Hi", "big": 10**5000}
    answer: Any = {"choices": [{**choice, "message": spoken}], "usage": {"total_tokens": 5, "cost": inf}}
    if streamed:
        answer = [{"choices": [{**choice, "delta": spoken}], "usage": {"total_tokens": 5, "cost": inf}}]
    with Store("sqlite://", client=cast(Any, MinimalClient(answer)), model="m") as store:
        id = store.new().id
        turn = ask(store, id, "Hi", streamed=streamed)
        assert (turn.text, turn.usage) == ("Hi", {"total_tokens": 5, "cost": "Infinity"})
        assert turn.message is not None
        assert turn.message["big"] == hex(10**5000)
        assert turn.response_fields == {"choices": [{"score": "NaN", "at": [1, '"2026-01-02"']}]}
        assert store.turns(id)[0].message == turn.message
        assert len(turn.notes) == 1
