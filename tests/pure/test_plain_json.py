"""Test that objects become plain JSON, and that other values are refused."""

import enum
from collections import OrderedDict, UserDict
from types import MappingProxyType
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import BaseModel, field_serializer

from convstore.errors import InvalidMessage
from convstore.messages.codec import digest
from convstore.messages.message import Message, to_message
from convstore.messages.plain_json import MAX_NESTING_DEPTH
from convstore.messages.request_form import to_request
from tests.pure.round_trip import is_same_json, store_and_read


def test_openai_objects_inside_a_message_become_plain() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    reply = ChatCompletionMessage.model_validate({"role": "assistant", "content": None, "tool_calls": [call]})
    assert reply.tool_calls is not None
    assert to_message({"role": "assistant", "tool_calls": reply.tool_calls}) == {
        "role": "assistant",
        "tool_calls": [call],
    }
    assert to_message({"role": "assistant", "tool_calls": (item for item in reply.tool_calls)})["tool_calls"] == [call]


def test_mappings_enums_and_tuples_become_plain_json() -> None:
    class Role(enum.StrEnum):
        USER = "user"

    class Level(enum.IntEnum):
        ONE = 1

    odd = UserDict(role=Role.USER, n=Level.ONE, frozen=MappingProxyType({"a": (1, 2)}), more=OrderedDict(b=2))
    plain = to_message(odd)
    assert is_same_json(plain, {"role": "user", "n": 1, "frozen": {"a": [1, 2]}, "more": {"b": 2}})


def test_two_surrogate_halves_in_a_row_become_the_character() -> None:
    halves = {"role": "user", "content": "a\ud83d\ude00", "x\ud83d\ude00": ["\ud83d\ude00\ud83d"]}
    whole = {"role": "user", "content": "a😀", "x😀": ["😀\ud83d"]}
    assert is_same_json(to_message(halves), whole)
    assert is_same_json(store_and_read(halves), whole)
    with pytest.raises(InvalidMessage, match="same text"):
        to_message({"role": "user", "😀": 1, "\ud83d\ude00": 2})


@pytest.mark.parametrize("depth", [MAX_NESTING_DEPTH - 1, MAX_NESTING_DEPTH, 10_000])
def test_a_message_nested_too_deeply_is_refused_and_one_at_the_limit_is_kept(depth: int) -> None:
    nested: Any = "bottom"
    for _ in range(depth):
        nested = [nested]
    message = {"role": "user", "content": nested}
    if depth < MAX_NESTING_DEPTH:
        assert is_same_json(store_and_read(message), message)
        assert to_request(to_message(message)) == message
        assert len(digest(b"", to_message(message))) == 16
    else:
        with pytest.raises(InvalidMessage, match="nested"):
            to_message(message)


def test_a_message_that_holds_itself_is_refused() -> None:
    message: Message = {"role": "user"}
    message["content"] = [message]
    with pytest.raises(InvalidMessage, match="nested"):
        to_message(message)


def test_a_whole_number_may_have_as_many_digits_as_python_reads() -> None:
    assert store_and_read({"role": "user", "n": 10**4299})["n"] == 10**4299
    with pytest.raises(InvalidMessage, match="digits"):
        to_message({"role": "user", "n": 10**4300})


def test_an_object_that_pydantic_cannot_write_is_refused() -> None:
    class Unwritable(BaseModel):
        role: str

        @field_serializer("role")
        def refuse(self, value: str) -> str:
            raise ValueError("not this role")

    with pytest.raises(InvalidMessage, match=r"Unwritable cannot be written as JSON: .*not this role"):
        to_message(Unwritable(role="user"))
