"""Test that the request form of a message is a form that an API accepts."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from openai.types.chat import ParsedChatCompletionMessage
from pydantic import BaseModel

from convstore.messages.message import Message
from convstore.messages.request_form import to_request
from tests.pure.round_trip import is_same_json, store_and_read
from tests.pure.strategies import (
    any_message,
    find_required_keys,
    param_types,
    reply_message,
    request_message,
)

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(any_message)
def test_the_request_form_is_plain_json_without_nulls_and_lone_surrogates(message: Message) -> None:
    request = to_request(message)
    assert None not in request.values()
    json.dumps(request, ensure_ascii=False).encode()
    assert request["role"] == to_request({"role": message["role"]})["role"]
    assert is_same_json(to_request(request), request)


@quick
@given(any_message)
def test_making_the_request_form_does_not_change_the_exact_form(message: Message) -> None:
    before = json.dumps(message)
    to_request(message)
    assert json.dumps(message) == before


def _replace_surrogates(value: Any) -> Any:
    """Return the value without lone surrogates, computed in another way than the code."""
    if isinstance(value, str):
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)
    if isinstance(value, list):
        return [_replace_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_replace_surrogates(key): _replace_surrogates(item) for key, item in value.items()}
    return value


@quick
@given(request_message)
def test_a_message_that_openais_request_types_allow_is_sent_without_its_nulls_only(message: Message) -> None:
    request = to_request(message)
    kept = {key: _replace_surrogates(value) for key, value in message.items() if value is not None}
    if not message.get("tool_calls"):
        kept.pop("tool_calls", None)
    assert {key: value for key, value in request.items() if key != "content"} == {
        key: value for key, value in kept.items() if key != "content"
    }
    assert request.get("content", "") == kept.get("content", "")


@quick
@given(request_message | reply_message)
def test_a_request_has_every_field_that_openais_types_require_and_no_unknown_one(message: Message) -> None:
    request = to_request(message)
    kind = next(kind for kind in param_types if message["role"] in str(kind.__annotations__["role"]))
    assert set(request) <= set(kind.__annotations__)
    assert set(request) >= find_required_keys(kind)
    if request["role"] == "assistant" and not {"tool_calls", "function_call", "audio"} & set(request):
        assert "content" in request  # "required unless tool_calls or function_call is specified"


CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("exact", "request_form"),
    [
        # The API reference, "Assistant message": content is required unless the message has calls. audio is {"id"}.
        ({"content": "Hi", "refusal": None, "annotations": []}, {"content": "Hi"}),
        ({"content": None}, {"content": ""}),
        ({}, {"content": ""}),
        ({"content": None, "refusal": "No."}, {"content": "", "refusal": "No."}),
        ({"content": None, "tool_calls": [CALL]}, {"tool_calls": [CALL]}),
        ({"content": "", "tool_calls": [CALL]}, {"content": "", "tool_calls": [CALL]}),
        (
            {"content": None, "function_call": {"name": "look", "arguments": ""}},
            {"function_call": {"name": "look", "arguments": ""}},
        ),
        (
            {"content": None, "audio": {"id": "audio_1", "data": "UklG", "expires_at": 1, "transcript": "Hi"}},
            {"audio": {"id": "audio_1"}},
        ),
        ({"content": "Hi", "audio": {"vendor": 1}}, {"content": "Hi", "audio": {"vendor": 1}}),
        # "Invalid 'messages[1].tool_calls': empty array. Expected an array with minimum length 1" (openai-node#1341).
        ({"content": "Hi", "tool_calls": []}, {"content": "Hi"}),
        ({"content": None, "tool_calls": []}, {"content": ""}),
        # These fields exist only in replies.
        (
            {"content": "4", "reasoning": "2+2", "reasoning_content": "2+2", "reasoning_details": [{"text": "2+2"}]},
            {"content": "4"},
        ),
        ({"content": "{}", "parsed": {"a": 1}}, {"content": "{}"}),
        ({"content": "Hi", "annotations": [{"type": "url_citation"}]}, {"content": "Hi"}),
        # Fields of vendors are sent unchanged, with the nulls in them.
        ({"content": "Hi", "prefix": True, "x": {"y": None}}, {"content": "Hi", "prefix": True, "x": {"y": None}}),
        # A body in UTF-8 cannot contain a lone surrogate.
        ({"content": "\ud83dx", "\ude00": ["\ude00"]}, {"content": "\ufffdx", "\ufffd": ["\ufffd"]}),
    ],
)
def test_the_fields_of_an_assistants_message_that_an_api_accepts_are_sent(
    exact: Message, request_form: Message
) -> None:
    assert to_request({"role": "assistant", **exact}) == {"role": "assistant", **request_form}


@pytest.mark.parametrize("role", ["user", "tool", "function", "system", "developer", "x_vendor"])
def test_only_nulls_are_changed_in_messages_of_other_roles(role: str) -> None:
    fields = {
        "content": "Hi",
        "annotations": [1],
        "reasoning": "x",
        "audio": {"id": "a", "data": "b"},
        "tool_calls": [],
    }
    assert to_request({"role": role, **fields}) == {"role": role, **fields}
    assert to_request({"role": role, "content": None, "name": None}) == {"role": role, "content": ""}
    assert to_request({"role": role, "output": 1}) == {"role": role, "output": 1}


def test_the_value_that_the_openai_package_parsed_is_stored_and_not_sent() -> None:
    class Sum(BaseModel):
        total: int

    reply = ParsedChatCompletionMessage[Sum](role="assistant", content='{"total": 4}', parsed=Sum(total=4))
    exact = store_and_read(reply)
    assert exact == {"role": "assistant", "content": '{"total": 4}', "parsed": {"total": 4}}
    assert to_request(exact) == {"role": "assistant", "content": '{"total": 4}'}
