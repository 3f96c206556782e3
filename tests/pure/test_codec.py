"""Test that the codec loses nothing, and that a digest identifies a whole path."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from convstore.messages.codec import StoredMessage, decode, digest, encode
from convstore.messages.message import Message
from tests.pure.round_trip import is_same_json, store_and_read
from tests.pure.strategies import (
    any_message,
    json_object_with_role,
    openai_message,
    reply_message,
    vendor_fields,
)

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(json_object_with_role)
def test_any_json_object_with_a_role_comes_back_equal(message: Message) -> None:
    assert is_same_json(store_and_read(message), message)


@quick
@given(openai_message)
def test_any_message_that_openais_types_allow_comes_back_equal(message: Message) -> None:
    assert is_same_json(store_and_read(message), message)


@quick
@given(reply_message, vendor_fields)
def test_an_openai_object_comes_back_with_the_fields_that_were_set(fields: Message, vendor: Message) -> None:
    answered = {**vendor, **fields}
    constructed = ChatCompletionMessage.construct(**answered)  # as the client makes an object from a response
    validated = ChatCompletionMessage.model_validate(_replace_lone_surrogates(answered))
    assert is_same_json(store_and_read(constructed), answered)
    assert is_same_json(store_and_read(validated), _replace_lone_surrogates(answered))


def _replace_lone_surrogates(fields: Message) -> Message:
    """Return the fields without lone surrogates, because pydantic refuses them."""
    plain: Message = json.loads(
        json.dumps(fields, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
    return plain


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "Hello!"},
        {"role": "user", "content": ""},
        {"role": "user", "content": "你好", "name": "小明"},
        {"content": '{"not": "parsed"}', "role": "tool"},
        {"role": "assistant"},
    ],
)
def test_a_role_and_a_string_need_no_json(message: Message) -> None:
    stored = encode(message)
    assert stored == StoredMessage(message["role"], message.get("name"), message.get("content"), None)
    assert decode(stored) == message


@pytest.mark.parametrize(
    ("message", "stored"),
    [
        ({"role": "user", "content": "a\0b"}, StoredMessage("user", None, None, r'{"content":"a\u0000b"}')),
        ({"role": "a\0b", "content": "x"}, StoredMessage("", None, "x", r'{"role":"a\u0000b"}')),
        (
            {"role": "user", "name": "\ud800", "content": "x"},
            StoredMessage("user", None, "x", r'{"name":"\ud800"}'),
        ),
        ({"role": "assistant", "content": None}, StoredMessage("assistant", None, None, '{"content":null}')),
        ({"role": "user", "content": ["文"]}, StoredMessage("user", None, None, '{"content":["文"]}')),
        ({"role": "user", "content": "x", "name": 3}, StoredMessage("user", None, "x", '{"name":3}')),
    ],
)
def test_a_value_that_a_column_cannot_hold_is_stored_in_extra(message: Message, stored: StoredMessage) -> None:
    assert encode(message) == stored
    assert decode(stored) == message


@pytest.mark.parametrize("extra", ["", "[1]", "null", "{", '"x"'])
def test_a_damaged_extra_is_an_error_and_never_an_empty_message(extra: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting"):
        decode(StoredMessage("user", None, "x", extra))


@quick
@given(any_message)
def test_a_digest_does_not_depend_on_the_order_of_keys_or_on_storage(message: Message) -> None:
    shuffled = dict(reversed(message.items()))
    assert digest(b"", shuffled) == digest(b"", message) == digest(b"", store_and_read(message))
    assert len(digest(b"", message)) == 16


@quick
@given(any_message, any_message, st.binary(min_size=16, max_size=16))
def test_different_messages_and_their_descendants_have_different_digests(
    one: Message, other: Message, parent: bytes
) -> None:
    assert (digest(parent, one) == digest(parent, other)) == is_same_json(_sort_keys(one), _sort_keys(other))
    assert digest(parent, one) != digest(b"", one)
    child = {"role": "user", "content": "Go on"}
    assert digest(digest(parent, one), child) != digest(digest(b"", one), child)


def _sort_keys(message: Mapping[str, Any]) -> object:
    return json.loads(json.dumps(message, sort_keys=True))


@pytest.mark.parametrize("one", [0, 0.0, False, None, "", "0", [], [0], {}])
def test_every_value_of_every_field_changes_the_digest(one: object) -> None:
    others = [digest(b"", {"role": "user", "x": value}) for value in (1, 1.0, True, "1", [1], {"a": 1})]
    others.append(digest(b"", {"role": "user"}))
    assert digest(b"", {"role": "user", "x": one}) not in others
    assert len(set(others)) == len(others)
