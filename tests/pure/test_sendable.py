"""Test that every history becomes a request that the strictest reading of the API takes."""

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
    """Assert what the request types demand, and what strict servers demand beside them."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            TOOL.validate_python(message, strict=True, extra="forbid")
            waiting.remove(message["tool_call_id"])
            continue
        assert waiting == [], "a call without its result"
        if message["role"] != "assistant":
            continue
        validated = ASSISTANT.validate_python(message, strict=True, extra="forbid")
        for key in ("content", "tool_calls"):  # pydantic validates an iterable when it is read
            list(validated.get(key) or ())
        assert None not in message.values()
        has_calls = bool(message.get("tool_calls") or message.get("function_call") or message.get("audio"))
        assert message.get("content") or has_calls, "a reply that says nothing"
        if "content" in message:
            assert message["content"], "an empty content"
        calls = list(message.get("tool_calls", []))
        assert calls or "tool_calls" not in message, "an empty list of calls"
        for call in calls:
            assert set(call) >= {"id", "type"}
            assert isinstance(call["id"], str)
            assert call["id"]
            assert "index" not in call
            if call["type"] == "function":
                assert isinstance(json.loads(call["function"]["arguments"]), dict)
        waiting = [call["id"] for call in calls]
        assert len(set(waiting)) == len(waiting), "two calls with one id"


def send(*messages: dict[str, Any], **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the request of messages, of which the assistant's were said by a model."""
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


def test_calls_without_an_id_of_their_own_get_one_that_their_results_have_too() -> None:
    calls = [make_call(id) for id in (None, "", "twice", "twice")]
    results = [
        {"role": "tool", "tool_call_id": id, "content": str(id)} for id in ("call_1_1", "call_1_2", "twice", "twice")
    ]
    sent, changes = send(make_reply(None, *calls), *results)
    assert [call["id"] for call in sent[0]["tool_calls"]] == ["call_1_1", "call_1_2", "twice", "call_1_4"]
    assert [result["tool_call_id"] for result in sent[1:]] == ["call_1_1", "call_1_2", "twice", "call_1_4"]
    assert len(changes) == 3


def test_a_type_of_null_and_the_index_of_fragments_are_repaired_and_signatures_stay() -> None:
    call = make_call(extra_content={"google": {"thought_signature": "abc"}}, index=0) | {"type": None}
    ((sent,), _) = send(make_reply(None, call))
    (repaired,) = sent["tool_calls"]
    assert repaired == make_call(extra_content={"google": {"thought_signature": "abc"}})


def test_only_the_fields_of_a_part_are_sent_and_no_empty_part() -> None:
    parts = [{"type": "text", "text": "Hi", "annotations": [], "x": None}, {"type": "text", "text": ""}]
    ((sent,), changes) = send(make_reply(parts))
    assert sent == {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    assert changes == ["message 1: left out 1 part of the content"]


def test_only_the_fields_of_a_request_are_sent_unless_the_caller_wants_others() -> None:
    reply = make_reply("Hi", annotations=[], reasoning_content="hm", x_vendor={"a": 1}, refusal=None)
    assert send(reply) == (
        [{"role": "assistant", "content": "Hi"}],
        ["message 1: left out x_vendor (`send_extra` sends them)"],
    )
    assert send(reply, extra=("x_vendor",)) == ([{"role": "assistant", "content": "Hi", "x_vendor": {"a": 1}}], [])
    ((thought,), _) = send(reply, reasoning=True)
    assert thought["reasoning_content"] == "hm"


def test_what_a_caller_gave_is_sent_as_it_was_written() -> None:
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
def test_any_damaged_reply_becomes_a_request_that_the_strictest_server_takes(replies: list[dict[str, Any]]) -> None:
    history = [part for reply in replies for part in ({"role": "user", "content": "Go on"}, reply)]
    sent, _ = send(*history)
    whole, _ = insert_placeholders(sent, fill=True)
    check_strict(whole)
    assert [message["role"] for message in whole if message["role"] != "tool"] == ["user", "assistant"] * len(replies)
