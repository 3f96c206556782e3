"""What was paid for survives the oddities of a provider: odd numbers, cut calls, odd ends, errors in odd forms.

Each test runs with `Store` and `AsyncStore`, with the client that convstore makes and with a caller's own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from convstore import AsyncStore, ReplyInterrupted, Store, TurnFailed
from convstore.testing import ChatServer, Failure, Raw, Reply
from tests.contract.invariants import check_all
from tests.faults.driven import _Driven, engine_of, opened
from tests.faults.test_provider_faults import MODES, ask, assistant, chunk, recorded, sent, user
from tests.pure.strict_request import find_faults


@pytest.fixture(params=["sync", "async", "sync-own", "async-own"])
def client_kind(request: pytest.FixtureRequest) -> str:
    """Which store, and whether the caller gives its own client."""
    return str(request.param)


@pytest.fixture
def store(client_kind: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with open_one(client_kind, chat_server) as store:
        yield store
        check_all(engine_of(store))


@contextmanager
def open_one(client_kind: str, server: ChatServer) -> Iterator[Store]:
    kind, _, own = client_kind.partition("-")
    if own:
        with opened(kind, "sqlite://", server) as store:
            yield store
    elif kind == "sync":
        with Store("sqlite://", base_url=server.url, model="test-model") as store:
            yield store
    else:
        with asyncio.Runner() as runner:
            made = AsyncStore("sqlite://", base_url=server.url, model="test-model")
            try:
                yield cast(Store, _Driven(made, runner))
            finally:
                runner.run(made.close())


def answer(fields: str = "", *, choice: str = "", message: str = "", usage: str = "", streamed: bool) -> Raw:
    """Return an answer "Hello" with more members of its objects, as text that need not be JSON.

    Args:
        choice: members of the choice; `message` of the message or the delta, `usage` of the usage.
    """

    def add(members: str) -> str:
        return f", {members}" if members else ""

    usage = f'"usage": {{"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5{add(usage)}}}'
    if not streamed:
        inner = f'"message": {{"role": "assistant", "content": "Hello"{add(message)}}}, "finish_reason": "stop"'
        return Raw(f'{{"id": "r", "choices": [{{"index": 0, {inner}{add(choice)}}}], {usage}{add(fields)}}}')
    first = (
        f'{{"id": "r", "choices": [{{"index": 0, "delta": {{"role": "assistant", "content": "Hel"{add(message)}}}}}]}}'
    )
    second = f'{{"id": "r", "choices": [{{"index": 0, "delta": {{"content": "lo"}}{add(choice)}}}]{add(fields)}}}'
    third = f'{{"id": "r", "choices": [{{"index": 0, "delta": {{}}, "finish_reason": "stop"}}], {usage}}}'
    body = "".join(f"data: {event}\n\n" for event in (first, second, third, "[DONE]"))
    return Raw(body, content_type="text/event-stream")


DIGITS = "1" + "0" * 5000
DEEP = "[" * 150 + "]" * 150
PLACES = ["fields", "choice", "message", "usage"]


@MODES
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", DIGITS, DEEP], ids=lambda value: value[:9])
def test_a_value_that_json_does_not_have_loses_nothing_of_the_reply(
    store: Store, chat_server: ChatServer, client_kind: str, streamed: bool, value: str, place: str
) -> None:
    id = store.new().id
    if client_kind.endswith("own") and value == DIGITS:
        pytest.skip("openai's client does not parse it, and a caller's own client is called as it is")
    member = f'"x": {{"y": {value}}}'
    fields = member if place == "fields" else ""
    more = {place: member} if place != "fields" else {}
    chat_server.script(answer(fields, streamed=streamed, **more))
    turn = ask(store, id, "Hi", streamed=streamed)
    assert (turn.status, turn.text, turn.finish_reason) == ("completed", "Hello", "stop")
    assert turn.usage is not None
    assert (turn.usage.prompt_tokens, turn.usage.completion_tokens) == (3, 2)
    (note,) = turn.notes
    assert note.startswith("kept as text: ")
    kept: Any = {"fields": turn.response_fields, "message": turn.message, "usage": turn.usage}.get(place)
    if place == "choice":
        kept = turn.response_fields["choices"][0]
    while isinstance(kept := kept["x"] if isinstance(kept, dict) and "x" in kept else kept["y"], dict):
        pass
    if not client_kind.endswith("own") and value is not DEEP:
        assert kept == value  # as the provider wrote it
    json.dumps([turn.response_fields, turn.message, turn.usage], allow_nan=False)
    assert recorded(store, id).notes == turn.notes
    assert recorded(store, id).response_fields == turn.response_fields
    ask(store, id, "On", streamed=streamed)
    assert sent(chat_server) == [user("Hi"), assistant("Hello"), user("On")]


@MODES
def test_a_text_with_raw_line_breaks_is_read(
    store: Store, chat_server: ChatServer, client_kind: str, streamed: bool
) -> None:
    id = store.new().id
    if client_kind.endswith("own"):
        pytest.skip("openai's client does not parse it")
    body = answer('"x": "a\tb"', streamed=streamed)
    chat_server.script(body)
    assert ask(store, id, "Hi", streamed=streamed).response_fields["x"] == "a\tb"


@MODES
def test_the_rest_of_an_answer_is_kept_with_the_turn_and_never_sent(
    store: Store, chat_server: ChatServer, streamed: bool
) -> None:
    id = store.new().id
    rest = {"citations": ["https://a"], "service_tier": "flex", "x_groq": {"id": "r", "n": None}, "created": 17}
    logprobs = {"content": [{"token": "lo", "logprob": -0.5}]}
    chat_server.script(answer(json.dumps(rest)[1:-1], choice=f'"logprobs": {json.dumps(logprobs)}', streamed=streamed))
    turn = ask(store, id, "Hi", streamed=streamed)
    assert turn.response_fields == {**rest, "choices": [{"logprobs": logprobs}]}
    assert turn.notes == ()
    assert recorded(store, id).response_fields == turn.response_fields
    ask(store, id, "On", streamed=streamed)
    assert sent(chat_server) == [user("Hi"), assistant("Hello"), user("On")]


def test_log_probabilities_of_all_pieces_are_kept(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    pieces = [{"token": text, "logprob": -0.5} for text in ("Hel", "lo", "!")]
    chunks = [chunk(str(piece["token"])) for piece in pieces]
    for body, piece in zip(chunks, pieces, strict=True):
        body["choices"][0]["logprobs"] = {"content": [piece], "refusal": None}
    chat_server.script(Reply(chunks=[*chunks, chunk(finish="stop")]))
    turn = ask(store, id, "Hi", streamed=True)
    assert turn.text == "Hello!"
    assert turn.response_fields["choices"] == [{"logprobs": {"content": pieces, "refusal": None}}]


# --- tool calls that are not whole ---


def call(arguments: Any, id: str | None = "call_1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "look", "arguments": arguments}}


@MODES
@pytest.mark.parametrize("finish", ["length", "content_filter", "tool_calls", "stop"])
def test_a_tool_call_that_was_cut_is_kept_and_never_sent_again(
    store: Store, chat_server: ChatServer, streamed: bool, finish: str
) -> None:
    id = store.new().id
    cut = {"role": "assistant", "content": None, "tool_calls": [call('{"p": "/tm')]}
    chat_server.script(Reply(message=cut, finish_reason=finish))
    turn = ask(store, id, "Hi", streamed=streamed)
    assert (turn.status, turn.message, turn.finish_reason) == ("completed", cut, finish)
    assert turn.notes == ("not sent again: tool call call_1, its arguments are not a JSON object",)
    assert store.pending_calls(id) == []
    assert store.history(id, exact=True) == [user("Hi"), cut]
    ask(store, id, "On", streamed=streamed)
    assert find_faults(sent(chat_server)) == []
    assert [message["role"] for message in sent(chat_server)] == ["user", "assistant", "user"]
    preview = store.preview(id, "More").window
    assert [change.split(":")[0] for change in preview.changes] == ["message 2", "message 2"]
    assert recorded(store, id).window is not None
    assert recorded(store, id).window.changes == preview.changes  # type: ignore[union-attr]


def test_two_calls_on_one_index_without_ids_are_kept_and_never_sent_as_one(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    pieces = [
        {"index": 0, "function": {"name": "look", "arguments": '{"p":1}'}},
        {"index": 0, "function": {"name": "look", "arguments": '{"p":2}'}},
    ]
    chunks = [{"choices": [{"delta": {"tool_calls": [piece]}}]} for piece in pieces]
    chat_server.script(Reply(chunks=[*chunks, chunk(finish="tool_calls")]))
    turn = ask(store, id, "Hi", streamed=True)
    assert '{"p":1}{"p":2}' in json.dumps(turn.message).replace("\\", "")
    ask(store, id, "On", streamed=True)
    assert find_faults(sent(chat_server)) == []


@MODES
def test_a_call_without_an_id_has_one_that_stays(store: Store, chat_server: ChatServer, streamed: bool) -> None:
    id = store.new().id
    message = {"role": "assistant", "content": None, "tool_calls": [call("{}", None), call("{}", None)]}
    if streamed:
        pieces = [{**one, "index": number} for number, one in enumerate(message["tool_calls"])]  # type: ignore[arg-type]
        chunks = [{"choices": [{"delta": {"tool_calls": [piece]}}]} for piece in pieces]
        chat_server.script(Reply(chunks=[*chunks, chunk(finish="tool_calls")]))
    else:
        chat_server.script(Reply(message=message, finish_reason="tool_calls"))
    ask(store, id, "Hi", streamed=streamed)
    ids = [one["id"] for one in store.pending_calls(id)]
    assert ids == ["call_2_1", "call_2_2"]
    for one in ids:
        store.append(id, {"role": "tool", "tool_call_id": one, "content": one})
    assert store.pending_calls(id) == []
    store.complete(id)
    assert find_faults(sent(chat_server)) == []
    assert [one["id"] for one in sent(chat_server)[1]["tool_calls"]] == ids


# --- how a reply ends ---


@MODES
@pytest.mark.parametrize("has_object", [True, False])
def test_a_reply_that_ends_with_an_error_is_interrupted_and_its_key_can_be_used_again(
    store: Store, chat_server: ChatServer, streamed: bool, has_object: bool
) -> None:
    id = store.new().id
    member = '"error": {"message": "upstream went away", "code": 502}' if has_object else '"finish_reason": "error"'
    chat_server.script(answer(choice=member, streamed=streamed))
    with pytest.raises(ReplyInterrupted, match="upstream went away" if has_object else "finish_reason"):
        ask(store, id, "Hi", streamed=streamed, idempotency_key="k")
    turn = recorded(store, id)
    assert (turn.status, turn.text) == ("interrupted", "Hello")
    assert store.history(id) == []
    chat_server.script(Reply("Fine"))
    assert ask(store, id, "Hi", streamed=streamed, idempotency_key="k").text == "Fine"


@MODES
def test_an_unknown_finish_reason_is_complete_with_a_note(
    store: Store, chat_server: ChatServer, streamed: bool
) -> None:
    id = store.new().id
    chat_server.script(Reply("Hello", finish_reason="eos"))
    turn = ask(store, id, "Hi", streamed=streamed)
    assert (turn.status, turn.finish_reason, turn.notes) == ("completed", "eos", ("unknown finish_reason: eos",))


def test_done_is_an_end_if_the_conversation_accepts_it(store: Store, chat_server: ChatServer, client_kind: str) -> None:
    id = store.new(accept_done=True).id
    chat_server.script(Reply("Hello", finish_reason=None))
    if client_kind.endswith("own"):  # openai's client does not say whether [DONE] came
        with pytest.raises(ReplyInterrupted):
            ask(store, id, "Hi", streamed=True)
        return
    turn = ask(store, id, "Hi", streamed=True)
    assert (turn.status, turn.text, turn.finish_reason) == ("completed", "Hello", None)
    assert turn.notes == ("without a finish_reason: ended with [DONE]",)
    assert store.history(id) == [user("Hi"), assistant("Hello")]
    chat_server.script(Reply("Hello", finish_reason=None, done=False))
    with pytest.raises(ReplyInterrupted, match="without its finish_reason"):
        ask(store, id, "On", streamed=True)


@pytest.mark.parametrize(
    "event",
    [
        {"object": "error", "message": "CUDA out of memory", "type": "server_error", "code": 500},
        {"error": {"message": "CUDA out of memory", "code": 500}},
        {"error": "CUDA out of memory"},
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_error_in_a_stream_keeps_the_providers_text(
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


# --- requests that are refused ---


@MODES
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Invalid value for messages[3].content: expected a non-empty string", "message 4"),
        ("messages.3: text content blocks must be non-empty", "message 4"),
        ("Invalid request", "message 4"),  # by the rules: the only one that a strict server may refuse
    ],
)
def test_the_error_of_a_refused_request_names_the_likely_message(
    store: Store, chat_server: ChatServer, streamed: bool, text: str, why: str
) -> None:
    id = store.new(messages=[user("a"), assistant("b"), user("c"), assistant(""), user("d"), assistant("e")]).id
    chat_server.script(Failure(400, text))
    with pytest.raises(TurnFailed, match=why) as caught:
        ask(store, id, "Hi", streamed=streamed)
    assert text in str(caught.value)
    assert caught.value.turn.error is not None
    assert caught.value.turn.error["suspect"].startswith("message 4")
    chat_server.script(Failure(401, text))
    with pytest.raises(TurnFailed) as caught:
        ask(store, id, "Hi", streamed=streamed)
    assert caught.value.turn.error is not None
    assert "suspect" not in caught.value.turn.error
