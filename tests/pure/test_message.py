"""Test that a message is a JSON object with a role, and how its text is found."""

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessage

from convstore.errors import InvalidInput, InvalidMessage
from convstore.messages.message import Message, extract_text, to_message


def test_fields_that_were_not_set_on_an_openai_object_are_left_out() -> None:
    assert to_message(ChatCompletionMessage(role="assistant", content="Hi")) == {"role": "assistant", "content": "Hi"}
    given_as_null = ChatCompletionMessage(role="assistant", content="Hi", tool_calls=None)
    assert to_message(given_as_null) == {"role": "assistant", "content": "Hi", "tool_calls": None}


def test_a_later_change_to_the_callers_dict_does_not_change_the_message() -> None:
    own = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    taken = to_message(own)
    own["content"][0]["text"] = "changed"  # type: ignore[index]
    assert taken == {"role": "user", "content": [{"type": "text", "text": "Hi"}]}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("text", "not str"),
        (["role"], "not list"),
        (None, "not NoneType"),
        ({}, "has None"),
        ({"role": ""}, "has ''"),
        ({"role": 3}, "has 3"),
        ({"role": "user", "n": float("nan")}, "nan"),
        ({"role": "user", "n": float("-inf")}, "-inf"),
        ({"role": "user", 3: "x"}, "not 3"),
        ({"role": "user", "x": [{None: 1}]}, "not None"),
        ({"role": "user", "content": b"bytes"}, "bytes"),
        ({"role": "user", "content": bytearray(b"bytes")}, "bytearray"),
        ({"role": "user", "content": {"a", "set"}}, "set"),
        ({"role": "user", "content": object()}, "object"),
        ({"role": "user", "content": ChatCompletionMessage}, "ModelMetaclass|type"),
        ({"role": "user", "content": dict}, "type"),
    ],
)
def test_a_value_that_is_no_message_is_refused_with_the_reason(value: object, why: str) -> None:
    with pytest.raises(InvalidMessage, match=why):
        to_message(value)


def test_a_completion_is_refused_as_a_message() -> None:
    completion = ChatCompletion.model_validate(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
        }
    )
    with pytest.raises(InvalidInput, match="role"):
        to_message(completion)


@pytest.mark.parametrize(
    ("message", "readable"),
    [
        ({"content": "Hi"}, "Hi"),
        ({"content": None}, ""),
        ({}, ""),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"text": "b"}]}, "ab"),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"content": [None, "x", {"text": 3}]}, ""),
        ({"content": None, "refusal": "No."}, "No."),
        ({"content": "", "refusal": "No."}, "No."),
        ({"content": [], "refusal": "No."}, "No."),
        ({"content": "Hi", "refusal": "No."}, "Hi"),
        ({"refusal": 3}, ""),
    ],
)
def test_the_readable_text_is_the_content_else_the_refusal(message: Message, readable: str) -> None:
    assert extract_text({"role": "assistant", **message}) == readable
