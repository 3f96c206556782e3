"""Test what is stored, raised and never sent again if the model or provider fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from convstore import ReplyInterrupted, Store, Turn, TurnFailed, TurnStatus
from convstore.testing import ChatServer, Drop, Failure, Raw, Reply, Response
from tests.contract.conftest import OWN_ENGINE_KINDS, Backend
from tests.contract.test_say import make_assistant, make_user, read_bodies

pytestmark = pytest.mark.parametrize("backend", OWN_ENGINE_KINDS, indirect=True)

SAY_FAILURES: dict[str, tuple[Response, dict[str, Any]]] = {
    "400": (Failure(400, "Bad thing."), {"type": "BadRequestError", "status": 400, "message": "Bad thing."}),
    "401": (Failure(401), {"type": "AuthenticationError", "status": 401, "code": "invalid_api_key"}),
    "404": (Failure(404), {"type": "NotFoundError", "status": 404, "code": "model_not_found"}),
    "429": (Failure(429, retry_after=0), {"type": "RateLimitError", "status": 429, "code": "rate_limit_exceeded"}),
    "500": (Failure(500), {"type": "InternalServerError", "status": 500}),
    "503": (Failure(503, retry_after=0), {"type": "InternalServerError", "status": 503}),
    "drop": (Drop(), {"type": "APIConnectionError"}),
    "html under 200": (Raw("<html>", content_type="text/html"), {}),
    "not json": (Raw("{not json"), {}),
    "nothing": (Raw(""), {}),
    "null": (Raw("null"), {}),
    "a list": (Raw("[]"), {}),
    "another object": (Raw('{"object": "list", "data": []}'), {}),
    "an error under 200": (Raw('{"error": {"message": "Out of stock."}}'), {"message": "Out of stock."}),
    "html under 502": (Raw("<html>Bad gateway</html>", 502, "text/html"), {"status": 502}),
    "no choices": (Reply(choices=[]), {}),
    "a choice without a message": (Raw('{"choices": [{"index": 0, "finish_reason": "stop"}]}'), {}),
    "the key in the error": (Failure(401, "Wrong key: secret-key."), {"message": "Wrong key: [key]."}),
    "a broken body": (Reply("Hello", cut_after=20), {}),
    "an error of many lines": (Failure(400, "a\n\tb\0c"), {}),
    "an error of surrogates": (Raw('{"error": {"message": "\\ud800"}}', 400), {"status": 400}),
}
STREAM_FAILURES: dict[str, tuple[Response, dict[str, Any]]] = {
    **SAY_FAILURES,
    "an error under 200": (
        Raw('{"error": {"message": "Out of stock."}}'),
        {},
    ),  # a stream ignores lines that are not events
    "an error event at once": (Reply("Hello", error_event={"message": "Overloaded."}), {"message": "Overloaded."}),
    "cut before anything": (Reply("Hello", cut_after=0), {}),
    "closed before anything": (Reply("Hello", cut_after=0, clean_cut=True), {}),
    "done at once": (Raw("data: [DONE]\n\n", content_type="text/event-stream"), {}),
    "garbage at once": (Reply("Hello", garbage="{not json"), {}),
    "no finish and no text": (Reply("", finish_reason=None), {}),
}


def say(store: Store, id: str, message: Any) -> Turn:
    return store.say(id, message)


def stream(store: Store, id: str, message: Any) -> Turn:
    with store.stream(id, message) as reply:
        for _ in reply:
            pass
    return reply.turn


REPEATED_STATUSES = (429, 503)
"""With these statuses, nothing was generated. So the call is repeated."""
DEFAULT_RETRIES = 2
"""How often a call is repeated by default."""
SAY_OR_STREAM = pytest.mark.parametrize("ask", [say, stream])


def check_failure(store: Store, server: ChatServer, id: str, turn: Turn, facts: dict[str, Any]) -> None:
    """Assert that a failed turn is stored with its error and its input."""
    assert turn.status is TurnStatus.FAILED
    assert (turn.message, turn.output_seq, turn.finish_reason, turn.text) == (None, None, None, "")
    assert turn.error is not None
    assert turn.error["type"]
    assert turn.error["message"]
    for key, value in facts.items():
        assert turn.error[key] == value
    assert "secret-key" not in json.dumps(turn.error)
    assert turn.ended_at is not None
    read = store.turns(id, limit=1)[0]
    for name in ("status", "error", "attempts", "base_seq"):
        assert getattr(read, name) == getattr(turn, name), name
    assert [record.message["content"] for record in store.input_of(turn)] == ["question"]
    assert read in store.unanswered(id)


@SAY_OR_STREAM
def test_every_kind_of_failure_is_stored_and_its_input_is_not_sent_later(
    store: Store, chat_server: ChatServer, ask: Callable[[Store, str, Any], Turn]
) -> None:
    id = store.new(system="s").id
    path = [{"role": "system", "content": "s"}]
    kinds = STREAM_FAILURES if ask is stream else SAY_FAILURES
    for kind, (response, facts) in kinds.items():
        before = len(chat_server.requests)
        calls = 1 + DEFAULT_RETRIES if facts.get("status") in REPEATED_STATUSES else 1
        chat_server.script(*[response] * calls)
        with pytest.raises(TurnFailed) as caught:
            ask(store, id, "question")
        assert len(chat_server.requests) == before + calls, kind
        assert len(caught.value.turn.attempts) == calls - 1, kind
        assert type(caught.value) is TurnFailed, kind
        line = str(caught.value)
        assert id in line, kind
        assert "\n" not in line, kind
        assert "secret-key" not in line, kind
        check_failure(store, chat_server, id, caught.value.turn, facts)
        assert store.history(id) == path, kind
    assert len(store.unanswered(id)) == min(len(kinds), 20)
    assert ask(store, id, "question").text == "You said: question"
    assert read_bodies(chat_server)[-1]["messages"] == [*path, make_user("question")]
    assert store.unanswered(id) == []
    assert len(store.turns(id)) == len(kinds) + 1
    assert [record.position for record in store.messages(id)] == [1, 2, 3]


@SAY_OR_STREAM
def test_a_message_that_failed_three_times_is_sent_once_later(
    store: Store, chat_server: ChatServer, ask: Callable[[Store, str, Any], Turn]
) -> None:
    id = store.new(system="s").id
    ask(store, id, "before")
    chat_server.script(Failure(500), Drop(), Failure(401))
    for _ in range(3):
        with pytest.raises(TurnFailed):
            ask(store, id, "question")
    ask(store, id, "question")
    ask(store, id, "after")
    assert [message["content"] for message in read_bodies(chat_server)[-1]["messages"]] == [
        "s",
        "before",
        "You said: before",
        "question",
        "You said: question",
        "after",
    ]
    assert [turn.status.value for turn in store.turns(id)] == [
        "completed",
        "failed",
        "failed",
        "failed",
        "completed",
        "completed",
    ]
    assert [record.position for record in store.messages(id)] == [1, 2, 3, 4, 5, 6, 7]


@SAY_OR_STREAM
def test_a_call_refused_before_generation_is_repeated_and_the_attempt_is_stored(
    backend: Backend, chat_server: ChatServer, ask: Callable[[Store, str, Any], Turn]
) -> None:
    store = backend.open(retries=1)
    id = store.new().id
    for refusal in (Failure(429, retry_after=0), Failure(503, retry_after=0)):
        chat_server.script(refusal, Reply("at last"))
        turn = ask(store, id, "question")
        assert (turn.status, turn.text, turn.error) == (TurnStatus.COMPLETED, "at last", None)
        (attempt,) = turn.attempts
        assert (attempt["error"]["status"], attempt["waited"]) == (refusal.status, 0)
        assert store.turns(id, limit=1)[0].attempts == turn.attempts
        first, second = read_bodies(chat_server)[-2:]
        assert first == second
    assert len(chat_server.requests) == 4
    assert [message["content"] for message in store.history(id)] == ["question", "at last"] * 2
    impatient = backend.open(retries=0)
    id = impatient.new().id
    chat_server.script(Failure(429, retry_after=0))
    with pytest.raises(TurnFailed, match="429"):
        ask(impatient, id, "question")
    assert impatient.turns(id)[0].attempts == ()


CUT_OFF_REPLIES: dict[str, Reply] = {
    "broken connection": Reply(pieces=["Hel", "lo"], cut_after=700),
    "closed connection": Reply(pieces=["Hel", "lo"], cut_after=700, clean_cut=True),
    "an error event": Reply("Hello", error_event={"message": "Overloaded.", "code": 529}, error_after=1),
    "garbage": Reply(pieces=["Hel", "lo"], garbage="{not json", garbage_after=1),
    "no finish_reason": Reply("Hello", finish_reason=None),
    "no finish_reason and no end": Reply("Hello", finish_reason=None, done=False),
}


@pytest.mark.parametrize("kind", CUT_OFF_REPLIES)
def test_a_partial_reply_is_stored_with_its_turn_and_not_sent_later(
    store: Store, chat_server: ChatServer, kind: str
) -> None:
    id = store.new(system="s").id
    chat_server.script(CUT_OFF_REPLIES[kind])
    pieces: list[str] = []
    reply = store.stream(id, "question")
    with pytest.raises(ReplyInterrupted, match=id) as caught, reply:
        pieces.extend(reply)
    text = "".join(pieces)
    assert text
    assert "Hello".startswith(text)
    assert caught.value.partial == {"role": "assistant", "content": text}
    turn = caught.value.turn
    assert (turn.status, turn.text, turn.finish_reason) == (TurnStatus.INTERRUPTED, text, None)
    assert turn.error is not None
    assert reply.turn == turn
    assert list(reply) == []
    (read,) = store.turns(id)
    assert (read.status, read.text, read.error) == (turn.status, text, turn.error)
    assert store.unanswered(id) == [read]
    assert store.history(id) == [{"role": "system", "content": "s"}]
    store.say(id, "again")
    assert read_bodies(chat_server)[-1]["messages"] == [{"role": "system", "content": "s"}, make_user("again")]


def test_a_reply_without_a_finish_reason_is_never_stored_as_completed(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Reply("Hello", finish_reason=None), Reply(message=make_assistant(None), finish_reason=None))
    with pytest.raises(ReplyInterrupted) as caught:
        store.say(id, "question")
    assert caught.value.partial is not None
    assert caught.value.partial["content"] == "Hello"
    with pytest.raises(TurnFailed):
        store.say(id, "question")
    assert [turn.status.value for turn in store.turns(id)] == ["interrupted", "failed"]
    assert store.history(id) == []


CUT_REPLY = Reply("Grüße 😀!", pieces=["Grü", "ße ", "😀", "!"], id="r")


@pytest.mark.parametrize("clean", [False, True], ids=["broken", "closed"])
def test_a_stream_cut_off_at_any_byte_is_completed_or_stored_off_the_path(
    store: Store, chat_server: ChatServer, clean: bool
) -> None:
    """Only a finish_reason completes the turn, and no partial reply is sent later."""
    seen: set[str] = set()
    id = store.new().id
    path: list[Any] = []
    for cut in range(0, 1700, 41):
        chat_server.script(replace(CUT_REPLY, cut_after=cut, clean_cut=clean))
        pieces: list[str] = []
        reply = store.stream(id, "question")
        with suppress(TurnFailed), reply:
            pieces.extend(reply)
        turn = reply.turn
        seen.add(turn.status.value)
        assert turn.text == "".join(pieces), cut
        if turn.status is TurnStatus.COMPLETED:
            path += [make_user("question"), make_assistant(CUT_REPLY.text)]
        assert (CUT_REPLY.text or "").startswith("".join(pieces)), cut
        assert (turn.status is TurnStatus.COMPLETED) == (turn.finish_reason == "stop"), cut
        assert store.turns(id, limit=1)[0].status is turn.status, cut
        assert store.history(id) == path, cut
        assert read_bodies(chat_server)[-1]["messages"][-1] == make_user("question"), cut
    assert seen == {"failed", "interrupted", "completed"}


def test_a_failure_after_the_finish_reason_does_not_affect_the_reply(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chunk = {"index": 0, "delta": {"role": "assistant", "content": "All."}, "finish_reason": "stop"}
    data = f"data: {json.dumps({'choices': [chunk]})}\n\ndata: {{broken"
    chat_server.script(Raw(data, content_type="text/event-stream"))
    turn = stream(store, id, "question")
    assert (turn.status, turn.text, turn.finish_reason) == (TurnStatus.COMPLETED, "All.", "stop")
    assert store.history(id) == [make_user("question"), make_assistant("All.")]


def test_all_input_messages_of_a_failed_turn_are_stored_and_none_is_sent_later(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    asked = [{"role": "system", "content": "x"}, make_user("one"), make_user("two")]
    chat_server.script(Failure(500))
    with pytest.raises(TurnFailed) as caught:
        store.say(id, asked)
    assert [record.message for record in store.input_of(caught.value.turn)] == asked
    assert store.history(id) == []
    assert store.get(id).length == 0
    store.say(id, "three")
    assert read_bodies(chat_server)[-1]["messages"] == [make_user("three")]
    assert [(r.position, r.seq, r.context_seq) for r in store.messages(id)] == [(1, 4, 0), (2, 5, 0)]


def test_a_timeout_of_the_call_fails_the_turn(store: Store, chat_server: ChatServer, hold: Callable[..., Any]) -> None:
    id = store.new().id
    hold("too late")
    with pytest.raises(TurnFailed) as caught:
        store.say(id, "hi", timeout=0.05)
    assert caught.value.turn.error is not None
    assert caught.value.turn.error["type"] == "APITimeoutError"
    assert store.say(id, "hi").text == "You said: hi"
