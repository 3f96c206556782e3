"""Test that any message without a text is a message that can be stored and sent, and that the text is not in it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convstore.messages.message import Message
from convstore.messages.redacted_message import (
    REDACTED_ARGUMENTS,
    REDACTED_TEXT,
    Secret,
    make_matched_secret,
    make_whole_secret,
)
from tests.pure.round_trip import store_and_read
from tests.pure.strategies import any_message, reply_message, request_message
from tests.pure.strict_request import find_faults
from tests.pure.test_strict_requests import damaged_reply, make_request

thorough = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SECRET = 'hunter2 "Pa55"\\wört'
STRUCTURE = {"role", "name", "tool_call_id", "id", "type", "index"}


def match(message: Message) -> Secret | None:
    """Return the secret of a message that has the text."""
    return make_matched_secret(
        message, lambda text: [SECRET] if SECRET in text else [], lambda text: text.replace(SECRET, REDACTED_TEXT)
    )


def plant(value: Any, places: list[int], key: str = "") -> Any:
    """Return a value with the secret in every text that may lose it, if its place is among `places`."""
    if isinstance(value, dict):
        return {name: item if name in STRUCTURE else plant(item, places, name) for name, item in value.items()}
    if isinstance(value, list):
        return [plant(item, places, key) for item in value]
    if not isinstance(value, str) or len(value) % 5 not in places:
        return value
    if key == "arguments":
        return json.dumps({"a": [f"x{SECRET}", 1]}, ensure_ascii=len(value) % 2 == 0)
    return f"{value} {SECRET} {value}"


def holds_secret(value: Any) -> bool:
    """Return True if the secret is in a text, as it is or as JSON spells it."""
    spelled = json.dumps(value, ensure_ascii=False)
    return any(json.dumps(one)[1:-1] in spelled for one in (SECRET, json.dumps(SECRET)[1:-1])) or "Pa55" in spelled


@thorough
@given(any_message, st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_a_matched_text_is_in_no_text_of_the_message_any_more(message: Message, places: list[int]) -> None:
    planted: Message = plant(message, places)
    before = json.dumps(planted)
    secret = match(planted)
    assert json.dumps(planted) == before
    assert (secret is None) == (not holds_secret(planted))
    if secret is not None:
        assert not holds_secret({key: value for key, value in secret.blanked.items() if key not in STRUCTURE})
        assert store_and_read(secret.blanked) == secret.blanked
        assert secret.blank(planted) == secret.blanked
        assert match(secret.blanked) is None
        assert {key: value for key, value in secret.blanked.items() if key in ("role", "name", "tool_call_id")} == {
            key: value for key, value in planted.items() if key in ("role", "name", "tool_call_id")
        }


@thorough
@given(any_message)
def test_a_whole_message_keeps_its_role_and_loses_its_texts(message: Message) -> None:
    planted: Message = plant(message, [0, 1, 2, 3, 4])
    secret = make_whole_secret(planted)
    blanked = secret.blanked
    assert not holds_secret({key: value for key, value in blanked.items() if key not in STRUCTURE})
    assert blanked["role"] == planted["role"]
    assert store_and_read(blanked) == blanked
    assert make_whole_secret(blanked).blanked == blanked


@thorough
@given(st.lists(damaged_reply | reply_message, min_size=1, max_size=3), st.booleans())
def test_redacted_replies_are_sent_as_the_strictest_server_takes_them(replies: list[Message], whole: bool) -> None:
    planted = [store_and_read(plant(reply, [0, 2])) for reply in replies]
    secrets = [make_whole_secret(reply) if whole else match(reply) for reply in planted]
    redacted = [secret.blanked if secret is not None else one for secret, one in zip(secrets, planted, strict=True)]
    request, _ = make_request(redacted)
    assert find_faults(request) == []
    count = [len(message.get("tool_calls") or ()) for message in make_request(planted)[0] if "tool_calls" in message]
    assert [len(message["tool_calls"]) for message in request if "tool_calls" in message] == count


@thorough
@given(request_message, st.booleans())
def test_redacted_messages_of_a_request_have_the_types_of_the_api(message: Message, whole: bool) -> None:
    if message["role"] in ("assistant", "tool", "function"):
        return
    planted: Message = plant(message, [0, 1, 2, 3, 4])
    if find_faults([planted]):
        return
    secret = make_whole_secret(planted) if whole else match(planted)
    assert secret is None or find_faults([secret.blanked]) == []


@pytest.mark.parametrize("arguments", [f'{{"a": "{json.dumps(SECRET)[1:-1]}"}}', f"not JSON {SECRET}", ""])
def test_arguments_stay_json_if_they_were(arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    secret = match(message)
    if secret is None:
        assert arguments == ""
        return
    changed = secret.blanked["tool_calls"][0]["function"]["arguments"]
    assert "Pa55" not in changed
    if arguments.startswith("{"):
        assert json.loads(changed) == {"a": REDACTED_TEXT}


def test_a_match_that_breaks_the_json_of_arguments_takes_them_whole() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"p": "x", "q": 1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    secret = make_matched_secret(message, lambda _: ['"x", "q"'], lambda text: text.replace('"x", "q"', REDACTED_TEXT))
    assert secret is not None
    assert secret.blanked["tool_calls"][0]["function"]["arguments"] == REDACTED_ARGUMENTS


def test_what_is_signed_or_spoken_goes_as_a_whole() -> None:
    message = {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": f"so {SECRET}", "signature": "s"}, {"type": "text", "text": "Hi"}],
        "reasoning_details": [{"data": "sealed"}],
        "audio": {"id": "a", "data": "UklG", "transcript": f"I say {SECRET}"},
    }
    secret = match(message)
    assert secret is not None
    assert secret.blanked == {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    spoken = {"role": "assistant", "content": None, "audio": {"id": "a", "transcript": f"I say {SECRET}"}}
    secret = match(spoken)
    assert secret is not None
    assert secret.blanked == {"role": "assistant", "content": f"I say {REDACTED_TEXT}"}


def test_a_part_that_has_the_same_file_is_replaced_and_others_stay() -> None:
    data = base64.b64encode(b"a picture, not a large one at all, only for this test").decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    file = {"type": "file", "file": {"filename": "a.png", "file_data": data}}
    secret = make_whole_secret({"role": "user", "content": [image]})
    other = {"role": "user", "content": [{"type": "text", "text": "see"}, file, {"type": "text", "text": data[:40]}]}
    assert secret.blank(other)["content"] == [
        {"type": "text", "text": "see"},
        {"type": "text", "text": REDACTED_TEXT},
        {"type": "text", "text": data[:40]},
    ]


def test_what_replaces_a_text_is_never_replaced() -> None:
    secret = make_matched_secret(
        {"role": "user", "content": "the word redacted"},
        lambda text: ["redacted"] if "redacted" in text else [],
        lambda text: text.replace("redacted", REDACTED_TEXT),
    )
    assert secret is not None
    assert secret.texts == ()
    assert secret.blanked["content"] == f"the word {REDACTED_TEXT}"


def test_only_words_of_the_api_stay_in_their_places() -> None:
    secret = match({"role": "user", "content": f"say {SECRET}"})
    assert secret is not None
    keys = ("type", "role", "model", "tool_choice")
    inner: dict[str, Any] = dict.fromkeys(keys, SECRET)
    gone: dict[str, Any] = dict.fromkeys(keys, REDACTED_TEXT)
    assert secret.blank_value({**inner, "x": [inner]}) == {**gone, "x": [gone]}
    schema = {"type": ["string", "null"], "properties": {"type": {"type": "string", "description": SECRET}}}
    request = {"model": "m", "tool_choice": "auto", "metadata": inner, "tools": [{"type": "function", "x": schema}]}
    changed = secret.blank_parameters(request)
    schema["properties"] = {"type": {"type": "string", "description": REDACTED_TEXT}}
    assert changed == {**request, "metadata": gone}
    word = make_matched_secret({"role": "user", "content": "a string, auto"}, lambda _: ["string", "auto"], str)
    assert word is not None
    assert word.blank_parameters({"tool_choice": "auto", "type": "string", "x": "string"}) == {
        "tool_choice": "auto",
        "type": "string",
        "x": REDACTED_TEXT,
    }
    part = {"type": "text", "text": "hello", "note": {"type": SECRET}}
    assert secret.blank({"role": "user", "content": [part]})["content"] == [{**part, "note": {"type": REDACTED_TEXT}}]
