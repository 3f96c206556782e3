"""Test that a caller may give a text, content parts or messages."""

import pytest
from openai.types.chat import ChatCompletionMessage

from convstore.errors import InvalidMessage
from convstore.messages.caller_input import parse_input
from convstore.messages.message import Message

PART = {"type": "text", "text": "Hi"}


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ("Hi", [USER]),
        ([PART], [{"role": "user", "content": [PART]}]),
        ((PART, PART), [{"role": "user", "content": [PART, PART]}]),
        (USER, [USER]),
        ([USER, {"role": "tool", "content": "1"}], [USER, {"role": "tool", "content": "1"}]),
        (ChatCompletionMessage(role="assistant", content="x"), [{"role": "assistant", "content": "x"}]),
        ([ChatCompletionMessage(role="assistant", content="x"), USER], [{"role": "assistant", "content": "x"}, USER]),
        ("\ud83d\ude00", [{"role": "user", "content": "😀"}]),
        ("  \n Hi ", [{"role": "user", "content": "  \n Hi "}]),
    ],
)
def test_the_input_may_be_text_or_parts_or_messages(value: object, messages: list[Message]) -> None:
    assert parse_input(value) == messages


@pytest.mark.parametrize(
    "value", ["", " \n\t", "\u3000", [], [USER, PART], ["Hi"], [[USER]], None, 3, {"content": "x"}]
)
def test_an_empty_or_unknown_input_is_refused(value: object) -> None:
    with pytest.raises(InvalidMessage):
        parse_input(value)


def test_a_senders_name_is_for_text_and_parts_only() -> None:
    assert parse_input("Hi", name="li") == [{"role": "user", "content": "Hi", "name": "li"}]
    assert parse_input([PART], name="li") == [{"role": "user", "content": [PART], "name": "li"}]
    with pytest.raises(InvalidMessage, match="own name"):
        parse_input(USER, name="li")
