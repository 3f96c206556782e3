"""The form in which a client's messages are compared with stored ones."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from convstore.messages.matching_form import (
    add_to_digest,
    digest_last_exchanges,
    list_path,
    make_matching_form,
)

TEXTS = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda some: st.lists(some) | st.dictionaries(TEXTS, some),
    max_leaves=5,
)
CALLS = st.builds(
    lambda id, name, arguments: {
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    },
    TEXTS,
    TEXTS,
    st.dictionaries(TEXTS, JSON, max_size=3),
)
MESSAGES = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, TEXTS),
    st.builds(lambda text: {"role": "system", "content": text}, TEXTS),
    st.builds(lambda text: {"role": "assistant", "content": text}, TEXTS),
    st.builds(
        lambda text, calls: {"role": "assistant", "content": text, "tool_calls": calls},
        TEXTS,
        st.lists(CALLS, min_size=1),
    ),
    st.builds(lambda text, id: {"role": "tool", "content": text, "tool_call_id": id}, TEXTS, TEXTS),
)


def rewrite(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message as another program might keep it."""
    written = {**message, "content": [{"type": "text", "text": message["content"], "cache_control": {"type": "x"}}]}
    if not message["content"]:
        written["content"] = None
    written |= {"refusal": None, "annotations": [], "reasoning_content": "thoughts"}
    calls = written.get("tool_calls")
    if calls:
        written["tool_calls"] = [
            {
                "index": 0,
                "id": call["id"],
                "function": {
                    "arguments": json.dumps(json.loads(call["function"]["arguments"]), indent=1, sort_keys=True),
                    "name": call["function"]["name"],
                },
            }
            for call in calls
        ]
    return written


@given(MESSAGES)
def test_a_message_has_one_form_however_a_client_writes_it(message: dict[str, Any]) -> None:
    assert make_matching_form(rewrite(message)) == make_matching_form(message)


@given(MESSAGES, MESSAGES)
def test_messages_that_say_something_else_have_another_form(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (make_matching_form(one) == make_matching_form(other)) == (one == other)


@given(st.lists(MESSAGES, max_size=8))
def test_a_longer_list_begins_with_the_digests_of_a_shorter_one(messages: list[dict[str, Any]]) -> None:
    whole = list_path(messages)
    assert [*whole.context, *whole.messages] == messages
    digest = b""
    for message, found in zip(whole.messages, whole.digests, strict=True):
        digest = add_to_digest(digest, message)
        assert found == digest


def test_a_text_is_not_a_part_of_another_kind() -> None:
    text = {"role": "user", "content": "a"}
    for content in ([{"type": "input_text", "text": "a"}], [{"type": "text", "text": "a"}] * 2, ["a", "b"], 7):
        assert make_matching_form({"role": "user", "content": content}) != make_matching_form(text)


def test_arguments_that_are_no_json_are_compared_as_they_are() -> None:
    def make(arguments: str) -> dict[str, Any]:
        return {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}}]}

    assert make_matching_form(make("{")) != make_matching_form(make("{ "))
    assert make_matching_form(make("[1]")) == make_matching_form(make("[ 1 ]"))
    assert make_matching_form(make('"x"')) != make_matching_form(make("x"))


def test_the_last_two_exchanges_are_those_that_users_begin() -> None:
    def say(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": text}

    path = [say("user", "a"), say("assistant", "b"), say("user", "c"), say("user", "d"), say("assistant", "e")]
    assert digest_last_exchanges(path[2:]) is None
    assert digest_last_exchanges(path) == digest_last_exchanges([say("system", "s"), *path])
    longer = [say("user", "x"), say("assistant", "y"), *path]
    assert digest_last_exchanges(longer) == digest_last_exchanges(path)
