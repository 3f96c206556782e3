"""Test that any path becomes a request that the strictest server accepts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionAssistantMessageParam, ChatCompletionToolMessageParam
from pydantic import TypeAdapter

from convstore.messages.sendable import EMPTY_REPLY_TEXT, Outgoing, SendableOptions, make_sendable
from convstore.messages.tool_calls import find_unanswered_calls, insert_placeholders

ASSISTANT: TypeAdapter[Any] = TypeAdapter(ChatCompletionAssistantMessageParam)
TOOL: TypeAdapter[Any] = TypeAdapter(ChatCompletionToolMessageParam)


def check_strict(messages: list[dict[str, Any]]) -> None:
    """Assert that the messages obey openai's request types and the rules of servers."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            TOOL.validate_python(message, strict=True, extra="forbid")
            waiting.remove(message["tool_call_id"])
            continue
        assert waiting == [], "a call has no result directly after it"
        if message["role"] != "assistant":
            continue
        validated = ASSISTANT.validate_python(message, strict=True, extra="forbid")
        for key in ("content", "tool_calls"):  # pydantic validates an iterable only when it is read
            list(validated.get(key) or ())
        assert None not in message.values()
        has_calls = bool(message.get("tool_calls") or message.get("function_call") or message.get("audio"))
        assert message.get("content") or has_calls, "a reply has neither content nor calls"
        if "content" in message:
            assert message["content"], "the content is empty"
        calls = list(message.get("tool_calls", []))
        assert calls or "tool_calls" not in message, "the list of calls is empty"
        for call in calls:
            assert set(call) >= {"id", "type"}
            assert isinstance(call["id"], str)
            assert call["id"]
            assert "index" not in call
            if call["type"] == "function":
                assert isinstance(json.loads(call["function"]["arguments"]), dict)
        waiting = [call["id"] for call in calls]
        assert len(set(waiting)) == len(waiting), "two calls have the same id"


def send(*messages: dict[str, Any], **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the request and the changes. Each assistant's message is a model's reply."""
    outgoing = [
        Outgoing(message, number, is_reply=message["role"] == "assistant") for number, message in enumerate(messages, 1)
    ]
    made = make_sendable(outgoing, SendableOptions(**options))
    return made.messages, made.changes


def make_call(id: Any = "call_1", arguments: Any = "{}", **other: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "look", "arguments": arguments}, **other}


def make_reply(content: Any = None, *calls: Any, **other: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content, **other}
    return {**message, "tool_calls": list(calls)} if calls else message


@pytest.mark.parametrize(
    "reply", [make_reply(""), make_reply(None), make_reply(None, reasoning_content="hm"), make_reply([])]
)
def test_a_reply_without_text_is_sent_as_a_placeholder(reply: dict[str, Any]) -> None:
    sent, changes = send(reply)
    assert sent == [{"role": "assistant", "content": EMPTY_REPLY_TEXT}]
    assert changes == [f'message 1: without text, sent as "{EMPTY_REPLY_TEXT}"']


@pytest.mark.parametrize("arguments", ['{"p": "/tm', '{"p":1}{"p":2}', "[1]", "3", "null", "not JSON", '{"a": NaN}'])
def test_a_call_with_broken_arguments_is_left_out_with_its_result(arguments: str) -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": "21"}
    sent, changes = send(make_reply("Let me look", make_call(arguments=arguments)), result)
    assert sent == [{"role": "assistant", "content": "Let me look"}]
    assert "arguments are not a JSON object" in changes[0]
    assert "result of tool call call_1" in changes[1]
    assert find_unanswered_calls([make_reply(None, make_call(arguments=arguments))]) == []


@pytest.mark.parametrize(
    ("arguments", "expected"), [(None, "{}"), ("", "{}"), ({"a": 1}, '{"a": 1}'), ('{"a":1}', '{"a":1}')]
)
def test_arguments_are_sent_as_the_text_of_an_object(arguments: Any, expected: str) -> None:
    ((sent,), _) = send(make_reply(None, make_call(arguments=arguments)))
    assert sent["tool_calls"][0]["function"]["arguments"] == expected


def test_calls_with_a_missing_or_repeated_id_and_their_results_get_new_ids() -> None:
    calls = [make_call(id) for id in (None, "", "twice", "twice")]
    results = [
        {"role": "tool", "tool_call_id": id, "content": str(id)} for id in ("call_1_1", "call_1_2", "twice", "twice")
    ]
    sent, changes = send(make_reply(None, *calls), *results)
    assert [call["id"] for call in sent[0]["tool_calls"]] == ["call_1_1", "call_1_2", "twice", "call_1_4"]
    assert [result["tool_call_id"] for result in sent[1:]] == ["call_1_1", "call_1_2", "twice", "call_1_4"]
    assert len(changes) == 3


def test_a_null_type_is_replaced_an_index_is_removed_and_a_signature_is_kept() -> None:
    call = make_call(extra_content={"google": {"thought_signature": "abc"}}, index=0) | {"type": None}
    ((sent,), _) = send(make_reply(None, call))
    (repaired,) = sent["tool_calls"]
    assert repaired == make_call(extra_content={"google": {"thought_signature": "abc"}})


def test_unknown_fields_of_parts_and_empty_parts_are_not_sent() -> None:
    parts = [{"type": "text", "text": "Hi", "annotations": [], "x": None}, {"type": "text", "text": ""}]
    ((sent,), changes) = send(make_reply(parts))
    assert sent == {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    assert changes == ["message 1: left out 1 part of the content"]


def test_fields_that_a_request_does_not_have_are_sent_only_if_the_caller_asks_for_them() -> None:
    reply = make_reply("Hi", annotations=[], reasoning_content="hm", x_vendor={"a": 1}, refusal=None)
    assert send(reply) == (
        [{"role": "assistant", "content": "Hi"}],
        ["message 1: left out x_vendor (`send_extra` sends them)"],
    )
    assert send(reply, extra=("x_vendor",)) == ([{"role": "assistant", "content": "Hi", "x_vendor": {"a": 1}}], [])
    ((thought,), _) = send(reply, reasoning=True)
    assert thought["reasoning_content"] == "hm"


def test_messages_of_the_caller_are_sent_unchanged() -> None:
    given_by_caller = [make_reply("", make_call(None, "{"), x=1), {"role": "tool", "tool_call_id": "", "content": "y"}]
    made = make_sendable([Outgoing(message) for message in given_by_caller])
    assert made.messages == given_by_caller
    assert made.changes == []


def test_a_whole_reply_is_sent_unchanged() -> None:
    reply = {"role": "assistant", "content": "Let me look", "tool_calls": [make_call()]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "21"}
    assert send(reply, result) == ([reply, result], [])


ODD: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=3)
    | st.just("")
    | st.lists(st.none(), max_size=1)
    | st.just({})
)
ARGUMENTS = ODD | st.sampled_from(["{}", '{"a": 1}', '{"a": "/tm', '{"a":1}{"b":2}', "[]"])
FUNCTIONS = st.fixed_dictionaries({}, optional={"name": ODD | st.just("look"), "arguments": ARGUMENTS, "x": ODD}) | ODD
CALLS = ODD | st.fixed_dictionaries(
    {},
    optional={
        "id": ODD | st.sampled_from(["a", "b"]),
        "type": ODD | st.sampled_from(["function", "custom"]),
        "function": FUNCTIONS,
        "custom": ODD | st.fixed_dictionaries({"name": st.just("run"), "input": ODD}),
        "index": ODD,
    },
)
PARTS = ODD | st.fixed_dictionaries(
    {"type": ODD | st.sampled_from(["text", "refusal", "thinking", "image_url"])},
    optional={"text": ODD | st.just("Hi"), "refusal": ODD | st.just("No")},
)
REPLIES = st.fixed_dictionaries(
    {"role": st.just("assistant")},
    optional={
        "content": ODD | st.just("Hi") | st.lists(PARTS, max_size=3),
        "refusal": ODD | st.just("No"),
        "name": ODD,
        "tool_calls": ODD | st.lists(CALLS, max_size=3),
        "function_call": ODD | FUNCTIONS,
        "audio": ODD | st.fixed_dictionaries({}, optional={"id": ODD | st.just("audio_1"), "data": ODD}),
        "annotations": ODD,
        "reasoning_details": ODD,
        "vendor": ODD,
    },
)


@settings(max_examples=300, deadline=None)
@given(st.lists(REPLIES, min_size=1, max_size=3))
def test_any_damaged_reply_becomes_a_request_that_the_strictest_server_accepts(replies: list[dict[str, Any]]) -> None:
    history = [part for reply in replies for part in ({"role": "user", "content": "Go on"}, reply)]
    sent, _ = send(*history)
    whole, _ = insert_placeholders(sent, fill=True)
    check_strict(whole)
    assert [message["role"] for message in whole if message["role"] != "tool"] == ["user", "assistant"] * len(replies)
