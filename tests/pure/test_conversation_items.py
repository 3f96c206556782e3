"""Test how messages are read as items, how items are stored as messages, and how replies are joined again."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convstore.cli.render.message_text import format_message
from convstore.messages.codec import decode, encode
from convstore.messages.conversation_items import read_items, to_item_message
from convstore.messages.joined_items import join_messages
from convstore.messages.json_patch import apply_patch, make_patch
from convstore.messages.matching_form import make_matching_form
from convstore.messages.message import extract_text, to_message
from convstore.messages.request_form import ITEM_FIELD, to_request
from convstore.messages.sendable import Outgoing, make_sendable

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
roles = st.sampled_from(["user", "assistant", "system", "developer", "tool", "critic"])
part_types = st.sampled_from(
    ["input_text", "output_text", "text", "refusal", "input_image", "input_file", "input_audio", "reasoning_text", "x"]
)
parts = st.fixed_dictionaries(
    {"type": part_types},
    optional={
        "text": texts | values,
        "refusal": texts,
        "image_url": texts | values,
        "detail": st.sampled_from(["auto", "low", "high"]) | values,
        "file_data": texts,
        "file_id": texts | values,
        "filename": texts,
        "input_audio": st.fixed_dictionaries({"data": texts, "format": st.just("wav")}) | values,
        "annotations": st.lists(values, max_size=2),
        "logprobs": st.just([]),
    },
)
contents = texts | st.lists(parts | values, max_size=3) | values
kinds = st.sampled_from(
    [
        *("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        *("reasoning", "web_search_call", "item_reference", "compaction", ""),
    ]
)
items = st.fixed_dictionaries(
    {},
    optional={
        "type": kinds | values,
        "id": texts | values,
        "role": roles | values,
        "content": contents,
        "status": st.just("completed") | values,
        "call_id": texts | values,
        "name": texts | values,
        "arguments": texts | values,
        "input": texts | values,
        "output": contents,
        "summary": st.lists(parts, max_size=2) | values,
        "encrypted_content": texts,
        "phase": st.just("final_answer"),
    },
)


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same JSON: 1 and true are not."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(values, values)
def test_a_patch_makes_the_other_value(one: Any, other: Any) -> None:
    patch = make_patch(one, other)
    assert (patch is None) == same(one, other)
    assert same(apply_patch(one, json.loads(json.dumps(patch))), other)


@given(values, values)
def test_what_is_no_patch_is_refused(one: Any, patch: Any) -> None:
    with suppress(ValueError):
        json.dumps(apply_patch(one, patch))


@given(items, texts)
def test_an_item_is_given_back_exactly(item: dict[str, Any], id: str) -> None:
    message = to_item_message(item, id)
    stored = decode(encode(to_message(message)))
    (read,) = read_items(stored)
    assert same(read, item)


@given(items)
def test_no_part_of_an_item_but_what_it_says_is_sent(item: dict[str, Any]) -> None:
    sent = make_sendable([Outgoing(to_item_message(item, "id"), 1)]).messages
    assert all(ITEM_FIELD not in json.dumps(message) for message in sent)
    assert ITEM_FIELD not in to_request(to_item_message(item, "id"))


@given(items, values)
def test_a_damaged_rest_of_an_item_is_read_as_a_chat_message(item: dict[str, Any], rest: Any) -> None:
    message = {**to_item_message(item, "id"), ITEM_FIELD: rest}
    assert len(read_items(message)) >= 1


@given(items, values)
def test_a_damaged_patch_of_an_item_leaves_what_it_says(item: dict[str, Any], patch: Any) -> None:
    message = to_item_message(item, "id")
    message[ITEM_FIELD] = {**message[ITEM_FIELD], "patch": patch}
    assert len(read_items(message)) == 1


calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": texts,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": texts, "arguments": texts}),
        }
    ),
    min_size=1,
    max_size=3,
)
chat_parts = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts})
    | st.fixed_dictionaries(
        {
            "type": st.just("image_url"),
            "image_url": st.fixed_dictionaries({"url": texts, "detail": st.sampled_from(["low", "high"])}),
        }
    ),
    min_size=1,
    max_size=3,
)
chat_messages = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": texts | chat_parts}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": texts | st.none(), "tool_calls": calls}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": texts}, optional={"reasoning_content": texts}),
    st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": texts, "content": texts}),
)


@given(chat_messages)
def test_a_chat_message_read_as_items_and_stored_as_such_says_the_same(message: dict[str, Any]) -> None:
    rows = [to_item_message(item, f"id-{number}") for number, item in enumerate(read_items(message))]
    (joined,) = join_messages(rows)
    assert make_matching_form(joined) == make_matching_form(message)


def test_a_text_and_two_calls_are_three_items() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "Let me look.", "tool_calls": [call, {**call, "id": "c2"}]}
    assert read_items(message) == [
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}", "status": "completed"},
    ]


def test_the_items_of_a_reply_are_sent_as_one_message_with_its_results_after_it() -> None:
    given: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{"},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "rain"}]},
    ]
    rows = [to_item_message(item, f"id-{number}") for number, item in enumerate(given)]
    sent = make_sendable([Outgoing(row, number + 1) for number, row in enumerate(rows)])
    assert [message["role"] for message in sent.messages] == ["user", "assistant", "tool"]
    assert sent.messages[1]["content"] == "I look."
    assert [call["id"] for call in sent.messages[1]["tool_calls"]] == ["c1"]  # the other one is cut
    assert sent.messages[2] == {"role": "tool", "tool_call_id": "c1", "content": "sun"}
    assert "message 2: left out an item of the kind web_search_call" in sent.changes


def test_reasoning_alone_is_not_sent_and_an_empty_reply_is() -> None:
    reasoning = to_item_message({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}, "a")
    empty = to_item_message({"type": "message", "role": "assistant", "content": []}, "b")
    user = {"role": "user", "content": "Hi"}
    assert join_messages([user, reasoning]) == [user]
    assert make_sendable([Outgoing(empty, 1)]).messages == [{"role": "assistant", "content": "(no text)"}]


def test_an_item_that_says_nothing_is_shown_by_its_kind() -> None:
    searched = to_item_message({"type": "web_search_call", "status": "completed"}, "a")
    assert format_message(searched) == "[web_search_call]"
    assert format_message({**searched, ITEM_FIELD: {"patch": {"set": 7}}}) == "[no text]"


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"role": "user", "content": "Hello"}, "Hello"),
        ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}, "Hello"),
        ({"type": "function_call_output", "call_id": "c", "output": "42"}, "42"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "[input_image]"),
    ],
)
def test_what_an_item_says_is_the_text_of_its_message(item: dict[str, Any], text: str) -> None:
    message = to_item_message(item, "id")
    assert extract_text(message) == text
    assert json.dumps(message).count(text) == 1  # it is stored once
