"""Test `say`: what the model receives, and what is stored."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionContentPartTextParam, ChatCompletionMessage, ChatCompletionUserMessageParam

from convstore import (
    InvalidInput,
    InvalidMessage,
    InvalidParameter,
    NotConfigured,
    Store,
    TurnFailed,
    TurnStatus,
    tool_result,
)
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.conftest import HARD_TEXTS, ON_ALL_BACKENDS, ON_THREE_BACKENDS, Backend


def make_user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def make_assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def read_bodies(server: ChatServer) -> list[dict[str, Any]]:
    """Return the bodies of the requests that the model has received."""
    return [request.body for request in server.requests]


@ON_ALL_BACKENDS
def test_say_sends_the_complete_path_and_nothing_else(store: Store, chat_server: ChatServer) -> None:
    id = store.new(
        "Olympics", system="你是一个体育专家。", model="gpt-x", temperature=0.2, name="o", metadata={"a": 1}
    ).id
    chat_server.script(Reply("中国北京。"), Reply("29届。"))
    first = store.say(id, "2008年奥运会是在哪里举行的？")
    second = store.say(id, "那是第几届？")
    system = {"role": "system", "content": "你是一个体育专家。"}
    dialogue = [
        system,
        make_user("2008年奥运会是在哪里举行的？"),
        make_assistant("中国北京。"),
        make_user("那是第几届？"),
    ]
    assert read_bodies(chat_server) == [
        {"model": "gpt-x", "messages": dialogue[:2], "temperature": 0.2},
        {"model": "gpt-x", "messages": dialogue, "temperature": 0.2},
    ]
    assert store.history(id) == [*dialogue, make_assistant("29届。")]
    assert (first.text, first.seq, second.text, second.seq) == ("中国北京。", 1, "29届。", 2)
    assert store.get(id).length == 5


@pytest.mark.parametrize("stream", [False, True], ids=["say", "stream"])
def test_every_form_of_input_is_sent_and_stored_as_messages(
    store: Store, chat_server: ChatServer, stream: bool
) -> None:
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "Look."},
        {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}},
    ]
    part: ChatCompletionContentPartTextParam = {"type": "text", "text": "typed"}
    param: ChatCompletionUserMessageParam = {"role": "user", "content": "typed", "name": "ann"}
    tool = {"role": "tool", "tool_call_id": "c1", "content": "5"}
    forms: list[tuple[Any, list[dict[str, Any]]]] = [
        ("text", [make_user("text")]),
        (" spaces \n", [make_user(" spaces \n")]),
        (parts, [make_user(parts)]),
        ([part], [make_user([part])]),
        (make_user("dict", name="ann"), [make_user("dict", name="ann")]),
        (param, [dict(param)]),
        (ChatCompletionMessage(role="assistant", content="object"), [make_assistant("object")]),
        (
            [make_user("one"), make_assistant("two"), make_user("three")],
            [make_user("one"), make_assistant("two"), make_user("three")],
        ),
        ((param, tool), [dict(param), tool]),
    ]
    for given, sent in forms:
        id = store.new().id
        if stream:
            with store.stream(id, given) as reply:
                for _ in reply:
                    pass
            turn = reply.turn
        else:
            turn = store.say(id, given)
        assert chat_server.requests[-1].body["messages"] == sent
        assert store.history(id) == [*sent, turn.message]
        assert (turn.first_input_seq, turn.last_input_seq, turn.output_seq) == (1, len(sent), len(sent) + 1)
        assert [record.message for record in store.input_of(turn)] == sent


def test_say_sends_a_system_message_and_a_sender_name(store: Store, chat_server: ChatServer) -> None:
    id = store.new(system="first").id
    store.say(id, "hi", system="second", name="ann_1-x")
    sent = [
        {"role": "system", "content": "first"},
        {"role": "system", "content": "second"},
        make_user("hi", name="ann_1-x"),
    ]
    assert read_bodies(chat_server)[0]["messages"] == sent
    assert store.history(id)[:3] == sent
    assert [record.context_seq for record in store.messages(id)] == [0, 1, 2, 2]
    store.say(id, [{"type": "text", "text": "x"}], name="bob")
    assert read_bodies(chat_server)[1]["messages"][-1] == make_user([{"type": "text", "text": "x"}], name="bob")


def test_say_without_history_sends_only_the_new_message_and_stores_everything(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new(system="s").id
    store.say(id, "one")
    store.say(id, "two", history=False)
    store.say(id, "three", history=False, system="other")
    store.say(id, "four")
    sent = [body["messages"] for body in read_bodies(chat_server)]
    assert sent[1] == [make_user("two")]
    assert sent[2] == [{"role": "system", "content": "other"}, make_user("three")]
    assert len(sent[3]) == 1 + 2 + 2 + 3 + 1
    assert store.history(id)[:-1] == sent[3]


def test_parameters_of_a_call_override_sticky_parameters(store: Store, chat_server: ChatServer) -> None:
    id = store.new(model="sticky", temperature=0.2, seed=1, stop=["x"], max_tokens=5).id
    store.say(id, "1", seed=2, stop=None, model="once", presence_penalty=0.5)
    store.say(id, "2")
    store.say(id, "3", top_p=0.5)
    store.say(id, "4", temperature=None)
    facts = [{key: value for key, value in body.items() if key != "messages"} for body in read_bodies(chat_server)]
    sticky = {"model": "sticky", "temperature": 0.2, "seed": 1, "stop": ["x"], "max_tokens": 5}
    rest = {key: value for key, value in sticky.items() if key != "temperature"}
    assert facts == [
        {"model": "once", "temperature": 0.2, "seed": 2, "max_tokens": 5, "presence_penalty": 0.5},
        sticky,
        {**rest, "top_p": 0.5},
        rest,
    ]
    assert store.get(id).settings == sticky
    assert [turn.request for turn in store.turns(id)] == facts


def test_unknown_parameters_are_sent_unchanged(store: Store, chat_server: ChatServer) -> None:
    id = store.new(vendor_sticky={"a": [1]}).id
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    store.say(id, "hi", vendor_once=True, response_format=schema, extra_headers={"X-Trace": "7"}, timeout=9)
    (request,) = chat_server.requests
    assert request.body["vendor_sticky"] == {"a": [1]}
    assert request.body["vendor_once"] is True
    assert request.body["response_format"] == schema
    assert request.headers["x-trace"] == "7"
    assert not {"extra_headers", "timeout", "extra_body"} & request.body.keys()
    assert "X-Trace" not in json.dumps(store.turns(id)[0].request)


@contextmanager
def check_nothing_changes(store: Store, server: ChatServer, id: str) -> Iterator[None]:
    before = (store.get(id), store.messages(id), store.turns(id), len(server.requests))
    yield
    assert (store.get(id), store.messages(id), store.turns(id), len(server.requests)) == before


@pytest.mark.parametrize("how", ["say", "stream", "preview"])
def test_an_invalid_parameter_is_refused_before_anything_is_stored_or_sent(
    store: Store, chat_server: ChatServer, how: str
) -> None:
    id = store.new(temperature=0.2).id
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"temperature": 2.0001}, "temperature must be a number from 0 to 2"),
        ({"temperature": -1}, "temperature must be a number from 0 to 2"),
        ({"temperature": "1"}, "temperature must be a number from 0 to 2"),
        ({"temperature": 0.5, "top_p": 0.5}, "temperature or top_p, not both"),
        ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1"),
        ({"max_tokens": -5}, "max_tokens must be a whole number of at least 1"),
        ({"name": "with space"}, "name must be 1 to 64 letters"),
        ({"name": "n" * 65}, "name must be 1 to 64 letters"),
        ({"name": ""}, "name must be 1 to 64 letters"),
        ({"name": "名"}, "name must be 1 to 64 letters"),
        ({"messages": []}, "messages"),
        ({"model": " "}, "model must be"),
        ({"seed": object()}, "seed"),
    ]
    with check_nothing_changes(store, chat_server, id):
        for wrong, rule in wrongs:
            with pytest.raises(InvalidParameter, match=rule):
                getattr(store, how)(id, "hi", **wrong)
        with pytest.raises(InvalidParameter, match="name must be"):
            getattr(store, how)(id, make_user("hi", name="with space"))


@pytest.mark.parametrize("how", ["say", "stream", "preview"])
def test_an_invalid_message_is_refused_before_anything_is_stored_or_sent(
    store: Store, chat_server: ChatServer, how: str
) -> None:
    id = store.new().id
    wrongs: list[Any] = [
        "",
        " \n\t",
        None,
        5,
        b"x",
        [],
        {},
        {"content": "x"},
        ["a", "b"],
        [make_user("x"), "y"],
        object(),
    ]
    with check_nothing_changes(store, chat_server, id):
        for wrong in wrongs:
            with pytest.raises(InvalidMessage):
                getattr(store, how)(id, wrong)
        with pytest.raises(InvalidMessage, match="empty"):
            getattr(store, how)(id, "hi", system="")
        with pytest.raises(InvalidMessage, match="its own name"):
            getattr(store, how)(id, make_user("hi"), name="ann")


def test_without_a_model_nothing_is_stored_or_sent(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(model=None)
    id = store.new().id
    with check_nothing_changes(store, chat_server, id), pytest.raises(NotConfigured, match="CONVSTORE_MODEL"):
        store.say(id, "hi")
    assert store.say(id, "hi", model="m").request["model"] == "m"


def test_the_model_comes_from_the_call_or_conversation_or_store_or_environment(
    backend: Backend, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSTORE_MODEL", "from-environment")
    store = backend.open(model=None)
    id = store.new().id
    store.say(id, "1")
    store.set(id, model="of-conversation")
    store.say(id, "2")
    store.say(id, "3", model="of-call")
    store.set(id, model=None)
    store.say(id, "4", model=None)
    models = [body["model"] for body in read_bodies(chat_server)]
    assert models == ["from-environment", "of-conversation", "of-call", "from-environment"]
    other = backend.open(model="of-store")
    other.say(other.new().id, "5")
    assert read_bodies(chat_server)[-1]["model"] == "of-store"


def test_without_a_key_and_server_nothing_is_stored_and_the_error_names_the_settings(backend: Backend) -> None:
    store = backend.open(client=None)
    id = store.new().id
    for call in (lambda: store.say(id, "hi"), lambda: store.stream(id, "hi").__enter__()):
        with pytest.raises(NotConfigured, match=r"OPENAI_API_KEY.*OPENAI_BASE_URL"):
            call()
    assert store.messages(id) == []
    assert store.turns(id) == []


def test_a_store_makes_a_client_for_its_base_url(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(base_url=chat_server.url)
    assert store.say(store.new().id, "hi").text == "You said: hi"


def test_the_callers_client_is_used_without_its_own_retries(
    backend: Backend, client: openai.OpenAI, chat_server: ChatServer
) -> None:
    assert client.max_retries == 2
    store = backend.open(client=client.with_options(default_headers={"X-App": "mine"}))
    id = store.new().id
    chat_server.script(Failure(500), Reply("hello"))
    with pytest.raises(TurnFailed):
        store.say(id, "hi")
    assert len(chat_server.requests) == 1
    assert chat_server.requests[0].headers["x-app"] == "mine"
    assert chat_server.requests[0].headers["authorization"] == "Bearer secret-key"
    assert client.max_retries == 2


@pytest.mark.parametrize("stream", [False, True], ids=["say", "stream"])
def test_preview_returns_the_request_that_is_sent_and_stores_nothing(
    store: Store, chat_server: ChatServer, stream: bool
) -> None:
    id = store.new(system="s", temperature=0.5, vendor=1).id
    store.append(id, {"role": "assistant", "content": None, "refusal": "no", "reasoning": "x"})
    asked: dict[str, Any] = {"system": "t", "name": "ann", "top_p": 0.3, "stop": ["x"], "vendor_once": [1]}
    for history in (True, False):
        with check_nothing_changes(store, chat_server, id):
            shown = store.preview(id, "hi", stream=stream, history=history, **asked)
        if stream:
            with store.stream(id, "hi", history=history, **asked) as reply:
                list(reply)
        else:
            store.say(id, "hi", history=history, **asked)
        assert chat_server.requests[-1].body == shown


def test_preview_needs_no_conversation(store: Store) -> None:
    assert store.preview(None, "hi", system="s", seed=1) == {
        "model": "test-model",
        "messages": [{"role": "system", "content": "s"}, make_user("hi")],
        "seed": 1,
    }
    assert store.list() == []


@ON_ALL_BACKENDS
def test_several_choices_are_stored_as_siblings_and_the_first_is_on_the_path(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    choices = [
        {"index": index, "message": make_assistant(text), "finish_reason": "stop"} for index, text in enumerate("abc")
    ]
    for count, stream in enumerate((False, True)):
        chat_server.script(Reply(choices=choices[::-1] if not stream else choices))
        if stream:
            with store.stream(id, "again", n=3) as reply:
                assert "".join(reply) == "a"
            turn = reply.turn
        else:
            turn = store.say(id, "which?", n=3)
        assert (turn.text, turn.status) == ("a", TurnStatus.COMPLETED)
        assert turn.output_seq == 2 + 4 * count
    assert [message["content"] for message in store.history(id)] == ["which?", "a", "again", "a"]
    store.say(id, "next")
    assert [record.seq for record in store.messages(id)] == [1, 2, 5, 6, 9, 10]
    assert [record.position for record in store.messages(id)] == [1, 2, 3, 4, 5, 6]
    beside = store.messages(id, before=3)
    assert [record.seq for record in beside] == [1]


@pytest.mark.parametrize("stream", [False, True], ids=["say", "stream"])
def test_replies_of_every_form_are_stored_exactly(store: Store, chat_server: ChatServer, stream: bool) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city": "北京"}'}}
    replies: list[tuple[dict[str, Any], str]] = [
        (make_assistant("cut off by"), "length"),
        ({"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "c2"}]}, "tool_calls"),
        ({"role": "assistant", "content": None, "refusal": "I will not."}, "stop"),
        (make_assistant(None), "content_filter"),
        (make_assistant(""), "stop"),
        ({"role": "assistant", "content": "x", "reasoning_content": "hm", "vendor": {"a": 1}}, "stop"),
    ]
    for message, reason in replies:
        id = store.new().id
        chat_server.script(Reply(message=message, finish_reason=reason))
        if stream:
            with store.stream(id, "hi") as reply:
                list(reply)
            turn = reply.turn
        else:
            turn = store.say(id, "hi")
        assert (turn.status, turn.finish_reason, turn.message) == (TurnStatus.COMPLETED, reason, message)
        assert store.history(id, exact=True)[-1] == message
        if message.get("tool_calls"):
            store.append(id, *[tool_result(call["id"], "21 degrees") for call in message["tool_calls"]])
        store.say(id, "and?")
        assert chat_server.requests[-1].body["messages"] == store.history(id)[:-1]


@pytest.mark.parametrize("stream", [False, True], ids=["say", "stream"])
def test_hard_texts_are_stored_exactly_and_sent_as_valid_text(
    store: Store, chat_server: ChatServer, stream: bool
) -> None:
    id = store.new().id
    said = [hard for hard in HARD_TEXTS if hard.strip()]
    for hard in said:
        chat_server.script(Reply(hard))
        if stream:
            with store.stream(id, hard) as reply:
                assert "".join(reply) == hard
        else:
            assert store.say(id, hard).text == hard
    store.say(id, "all of them?")
    expected = [text for hard in said for text in (hard, hard)]
    assert [message["content"] for message in store.history(id, exact=True)][:-2] == expected
    sent = [message["content"] for message in chat_server.requests[-1].body["messages"]][:-1]
    as_sent = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in expected]
    assert sent == as_sent


@ON_THREE_BACKENDS
def test_messages_of_five_megabytes_are_sent_and_stored(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    text = "会話 of 12 bytes " * 320_000
    chat_server.script(Reply(text[::-1]))
    turn = store.say(id, text)
    assert chat_server.requests[0].body["messages"] == [make_user(text)]
    assert turn.text == text[::-1]
    assert store.history(id) == [make_user(text), make_assistant(text[::-1])]
    with store.stream(id, "again", history=False) as reply:
        list(reply)
    chat_server.script(Reply(text))
    with store.stream(id, "long", history=False) as reply:
        assert "".join(reply) == text
    assert store.history(id, limit=1) == [make_assistant(text)]


def test_the_turn_fails_if_the_server_cannot_be_reached(backend: Backend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    store = backend.open(base_url=f"http://127.0.0.1:{port}/v1", retries=1)
    id = store.new().id
    with pytest.raises(TurnFailed) as caught:
        store.say(id, "hi")
    assert caught.value.turn.error is not None
    assert caught.value.turn.error["type"] == "APIConnectionError"
    (attempt,) = caught.value.turn.attempts
    assert attempt["error"]["type"] == "APIConnectionError"
    assert attempt["waited"] > 0
    assert [turn.status for turn in store.unanswered(id)] == [TurnStatus.FAILED]


def test_a_store_refuses_both_a_url_and_an_engine(backend: Backend) -> None:
    with pytest.raises(InvalidInput, match="not both"):
        Store("sqlite://", engine=backend.engine())
