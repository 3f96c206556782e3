"""Test answers with oddities: text and usage are kept, and one bad reply never blocks the calls after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from convstore import ReplyInterrupted, Store, Turn, TurnFailed, TurnStatus, tool_result
from convstore.testing import ChatServer, Raw, Reply
from tests.contract.invariants import check_all
from tests.faults.driven import engine_of, opened

USAGE = '{"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}'
DIGITS = "7" * 5000
DEEP = "[" * 150 + "]" * 150


@pytest.fixture(params=["sync", "async"])
def store(request: pytest.FixtureRequest, sqlite_url: str, chat_server: ChatServer) -> Iterator[Store]:
    """Yield a store of each kind with a client that convstore makes."""
    with opened(request.param, sqlite_url, chat_server, made=True) as store:
        yield store
        check_all(engine_of(store))


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def streamed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def make_body(*, streamed: bool, message: str = '"content": "It is done"', choice: str = "", rest: str = "") -> Raw:
    """Return an answer, written by hand, with other fields in its message, its choice and beside the choices."""
    head = '"id": "c1", "model": "m", "object": "chat.completion"'
    if not streamed:
        return Raw(
            f'{{{head}, "choices": [{{"index": 0, "message": {{"role": "assistant", {message}}}'
            f'{choice or ", " + FINISH}}}], "usage": {USAGE}{rest}}}'
        )
    events = [
        f'{{{head}, "choices": [{{"index": 0, "delta": {{"role": "assistant", {message}}}}}]}}',
        f'{{{head}, "choices": [{{"index": 0, "delta": {{}}{choice or ", " + FINISH}}}]{rest}}}',
        f'{{{head}, "choices": [], "usage": {USAGE}}}',
        "[DONE]",
    ]
    return make_stream(*events)


FINISH = '"finish_reason": "stop"'


def make_stream(*events: str) -> Raw:
    return Raw("".join(f"data: {event}\n\n" for event in events), content_type="text/event-stream")


def ask(
    store: Store, server: ChatServer, answer: Raw | Reply, streamed: bool, id: str | None = None, **how: Any
) -> Turn:
    """Say something, and return the turn with this answer."""
    server.script(answer)
    id = id or store.new().id
    if not streamed:
        return store.say(id, "Hi", **how)
    with store.stream(id, "Hi", **how) as reply:
        list(reply)
    assert reply.turn is not None
    return reply.turn


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity", "1e999", DIGITS, DEEP], ids=lambda text: text[:9])
@pytest.mark.parametrize(
    ("place", "path"),
    [("rest", "timings.speed"), ("choice", "choices.0.score"), ("message", "messages.0.vendor.score")],
)
def test_a_reply_is_kept_whatever_stands_around_its_text(
    store: Store, chat_server: ChatServer, streamed: bool, written: str, place: str, path: str
) -> None:
    fields = {
        "rest": f', "timings": {{"speed": {written}}}',
        "choice": f', {FINISH}, "score": {written}',
        "message": f'"content": "It is done", "vendor": {{"score": {written}}}',
    }
    turn = ask(store, chat_server, make_body(streamed=streamed, **{place: fields[place]}), streamed=streamed)
    assert (turn.status, turn.text) == (TurnStatus.COMPLETED, "It is done")
    assert turn.usage == json.loads(USAGE)
    assert [note for note in turn.notes if note.startswith(f"kept as text: {path}")], turn.notes
    (stored,) = store.turns(turn.conversation_id)
    assert (stored.notes, stored.response_fields, stored.message) == (turn.notes, turn.response_fields, turn.message)
    assert store.say(turn.conversation_id, "And now?").status is TurnStatus.COMPLETED


def test_usage_with_an_odd_cost_is_kept(store: Store, chat_server: ChatServer) -> None:
    body = make_body(streamed=False).body
    assert isinstance(body, str)
    turn = ask(store, chat_server, Raw(body.replace(USAGE, USAGE[:-1] + ', "cost": NaN}')), streamed=False)
    assert turn.usage is not None
    assert (turn.usage.total_tokens, turn.usage["cost"]) == (12, "NaN")
    assert turn.notes == ("kept as text: usage.cost",)


def test_the_rest_of_an_answer_is_kept_exactly_and_never_sent(
    store: Store, chat_server: ChatServer, streamed: bool
) -> None:
    logprobs = {"content": [{"token": "It", "logprob": -0.1}]}
    rest = {"created": 7, "service_tier": "default", "citations": ["https://a", "https://b"], "x_groq": {"id": "r"}}
    answer = make_body(
        streamed=streamed,
        choice=f', {FINISH}, "logprobs": {json.dumps(logprobs)}',
        rest=", " + json.dumps(rest)[1:-1],
    )
    turn = ask(store, chat_server, answer, streamed=streamed)
    assert turn.response_fields == {**rest, "choices": [{"logprobs": logprobs}]}
    assert store.turns(turn.conversation_id)[-1].response_fields == turn.response_fields
    store.say(turn.conversation_id, "And?")
    assert chat_server.requests[-1].body["messages"][1] == {"role": "assistant", "content": "It is done"}


def test_log_probabilities_of_all_pieces_are_kept_and_repeated_fields_do_not_grow(
    store: Store, chat_server: ChatServer
) -> None:
    def make_event(text: str, **more: Any) -> str:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [{"token": text}]}, **more}
        return json.dumps({"id": "c", "choices": [choice], "service_tier": "flex", "citations": ["a"]})

    safe = {"content_filter_results": {"hate": {"severity": "safe"}}}
    events = [make_event("It ", **safe), make_event("is", **safe, finish_reason="stop")]
    turn = ask(store, chat_server, make_stream(*events), streamed=True)
    assert turn.response_fields == {
        "service_tier": "flex",
        "citations": ["a"],
        "choices": [{"logprobs": {"content": [{"token": "It "}, {"token": "is"}]}, **safe}],
    }


@pytest.mark.parametrize("arguments", ['{"p": "/tm', '{"p":1}{"p":2}'])
@pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls"])
def test_a_broken_tool_call_is_kept_marked_and_never_sent(
    store: Store, chat_server: ChatServer, streamed: bool, arguments: str, reason: str
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": arguments}}
    reply = Reply(message={"role": "assistant", "content": None, "tool_calls": [call]}, finish_reason=reason)
    turn = ask(store, chat_server, reply, streamed=streamed)
    id = turn.conversation_id
    assert turn.message == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert turn.notes == ("not sent again: tool call call_1, its arguments are not a JSON object",)
    assert store.pending_calls(id) == []
    answered = store.say(id, "And now?")
    assert chat_server.requests[-1].body["messages"][1] == {"role": "assistant", "content": "(no text)"}
    assert answered.window is not None
    assert answered.window.changes[0] == "message 2: left out tool call 1: its arguments are not a JSON object"
    assert store.history(id, exact=True)[1] == turn.message
    assert store.history(id) == chat_server.requests[-1].body["messages"] + [answered.message]


def test_a_call_without_an_id_can_be_answered(store: Store, chat_server: ChatServer, streamed: bool) -> None:
    call = {"id": "", "type": "function", "function": {"name": "look", "arguments": ""}}
    turn = ask(
        store,
        chat_server,
        Reply(message={"role": "assistant", "content": None, "tool_calls": [call]}, finish_reason="tool_calls"),
        streamed=streamed,
    )
    id = turn.conversation_id
    (pending,) = store.pending_calls(id)
    assert pending["id"] == "call_2_1"
    assert pending["function"]["arguments"] == "{}"
    store.append(id, tool_result(pending["id"], "21 degrees"))
    store.complete(id)
    sent = chat_server.requests[-1].body["messages"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"] == "call_2_1"


@pytest.mark.parametrize(
    "choice", ['"finish_reason": "error"', '"finish_reason": "stop", "error": {"message": "Lost", "code": 502}']
)
def test_a_choice_that_ends_with_an_error_is_interrupted_and_frees_its_key(
    store: Store, chat_server: ChatServer, streamed: bool, choice: str
) -> None:
    id = store.new().id
    with pytest.raises(ReplyInterrupted) as caught:
        ask(
            store,
            chat_server,
            make_body(streamed=streamed, choice=f", {choice}"),
            streamed=streamed,
            id=id,
            idempotency_key="k",
        )
    assert caught.value.turn.error is not None
    assert caught.value.turn.error["type"] == "ProviderError"
    assert caught.value.turn.text == "It is done"
    assert store.history(id) == []
    assert store.say(id, "Hi", idempotency_key="k").status is TurnStatus.COMPLETED


def test_an_unknown_finish_reason_is_an_end_with_a_note(store: Store, chat_server: ChatServer, streamed: bool) -> None:
    turn = ask(store, chat_server, make_body(streamed=streamed, choice=', "finish_reason": "eos"'), streamed=streamed)
    assert (turn.status, turn.finish_reason) == (TurnStatus.COMPLETED, "eos")
    assert turn.notes == ("unknown finish_reason: eos",)


def test_done_is_an_end_only_for_who_accepts_it(store: Store, chat_server: ChatServer) -> None:
    events = ['{"id": "c", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}', "[DONE]"]
    with pytest.raises(ReplyInterrupted):
        ask(store, chat_server, make_stream(*events), streamed=True)
    id = store.new(accept_done=True).id
    turn = ask(store, chat_server, make_stream(*events), streamed=True, id=id)
    assert (turn.status, turn.finish_reason, turn.text) == (TurnStatus.COMPLETED, None, "Hi")
    with pytest.raises(ReplyInterrupted):
        ask(store, chat_server, make_stream(*events[:1]), streamed=True, id=id)


@pytest.mark.parametrize(
    "error",
    ['{"error": {"message": "No room", "code": 500}}', '{"object": "error", "message": "No room", "code": 500}'],
)
def test_an_error_inside_a_stream_keeps_the_providers_text(store: Store, chat_server: ChatServer, error: str) -> None:
    first = '{"id": "c", "choices": [{"index": 0, "delta": {"content": "Hal"}}]}'
    with pytest.raises(ReplyInterrupted, match="No room") as caught:
        ask(store, chat_server, make_stream(first, error), streamed=True)
    assert caught.value.turn.text == "Hal"
    assert caught.value.turn.error is not None
    assert caught.value.turn.error["code"] == 500


def test_reasoning_details_are_joined_by_type_and_id_and_keep_their_signatures(
    store: Store, chat_server: ChatServer
) -> None:
    details = [
        {"index": 0, "type": "reasoning.text", "text": "I th"},
        {"index": 0, "type": "reasoning.text", "text": "ink"},
        {"index": 0, "type": "reasoning.text", "signature": "abc"},
        {"index": 0, "type": "reasoning.encrypted", "id": "r1", "data": "xyz"},
        {"index": 0, "type": "reasoning.encrypted", "id": "r2", "data": "uvw"},
    ]
    events = [json.dumps({"choices": [{"index": 0, "delta": {"reasoning_details": [one]}}]}) for one in details]
    end = json.dumps({"choices": [{"index": 0, "delta": {"content": "42"}, "finish_reason": "stop"}]})
    turn = ask(store, chat_server, make_stream(*events, end), streamed=True)
    assert turn.message is not None
    assert turn.message["reasoning_details"] == [
        {"index": 0, "type": "reasoning.text", "text": "I think", "signature": "abc"},
        *details[3:],
    ]


def test_an_answer_that_is_too_large_is_cut_off(sqlite_url: str, chat_server: ChatServer, streamed: bool) -> None:
    with Store(sqlite_url, base_url=chat_server.url, model="m", max_reply_bytes=5000) as store:
        failure = ReplyInterrupted if streamed else TurnFailed
        with pytest.raises(failure, match="more than 5,000 bytes") as caught:
            ask(store, chat_server, Reply(pieces=["Much "] * 2000), streamed=streamed)
        assert caught.value.turn.text.startswith("Much Much") is streamed
        assert store.say(caught.value.turn.conversation_id, "Hi").status is TurnStatus.COMPLETED


def test_a_redirect_is_not_followed(store: Store, chat_server: ChatServer, streamed: bool) -> None:
    with pytest.raises(TurnFailed, match=r"redirects to http://127\.0\.0\.1:1/v2"):
        ask(
            store,
            chat_server,
            Raw("", status=307, headers={"Location": "http://user:secret@127.0.0.1:1/v2"}),
            streamed=streamed,
        )
    assert len(chat_server.requests) == 1


def test_a_callers_own_client_is_called_as_its_caller_would(sqlite_url: str, chat_server: ChatServer) -> None:
    client = openai.OpenAI(api_key="x", base_url=chat_server.url)
    with Store(sqlite_url, client=client, model="m") as store:
        turn = ask(store, chat_server, make_body(streamed=False, rest=', "timings": {"speed": NaN}'), streamed=False)
        assert (turn.text, turn.notes) == ("It is done", ("kept as text: timings.speed",))
    assert "x-stainless-raw-response" not in chat_server.requests[-1].headers
    client.close()
