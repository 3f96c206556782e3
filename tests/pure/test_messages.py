"""The codec loses nothing, and says what an API accepts."""

import enum
import json
from collections import OrderedDict, UserDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionMessage, ParsedChatCompletionMessage
from pydantic import BaseModel, field_serializer

from convstore.errors import InvalidInput, InvalidMessage
from convstore.messages.codec import (
    DEEPEST,
    StoredMessage,
    decode,
    digest,
    encode,
    from_column,
    is_storable,
    rejoin,
    text_of,
    to_column,
    to_input,
    to_json,
    to_message,
    to_plain,
    to_request,
)
from tests.pure.strategies import (
    any_message,
    json_object_with_role,
    json_value,
    openai_message,
    param_types,
    reply_message,
    request_message,
    required_keys,
    text,
    vendor_fields,
)

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Message = dict[str, Any]


def same(one: object, other: object) -> bool:
    """Equal, and of equal types all through: to `==` alone, 1, 1.0 and True are one thing."""
    return one == other and _typed(one) == _typed(other)


def _typed(value: object) -> object:
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return type(value).__name__, repr(value)


def through_a_row(message: object) -> Message:
    """What a message is after it was stored; the row is text that both databases hold."""
    stored = encode(to_message(message))
    for column in (stored.role, stored.name, stored.content, stored.extra):
        assert column is None or is_storable(column)
    return decode(stored)


# --- exact ---


@quick
@given(json_object_with_role)
def test_any_json_object_with_a_role_comes_back_equal(message: Message) -> None:
    assert same(through_a_row(message), message)


@quick
@given(openai_message)
def test_any_message_that_openais_types_allow_comes_back_equal(message: Message) -> None:
    assert same(through_a_row(message), message)


@quick
@given(reply_message, vendor_fields)
def test_an_openai_object_comes_back_as_what_was_set_on_it(fields: Message, vendor: Message) -> None:
    answered = {**vendor, **fields}
    constructed = ChatCompletionMessage.construct(**answered)  # as the client makes them of a response
    validated = ChatCompletionMessage.model_validate(_valid(answered))
    assert same(through_a_row(constructed), answered)
    assert same(through_a_row(validated), _valid(answered))


def _valid(fields: Message) -> Message:
    """Without lone surrogates, which pydantic does not admit where it checks."""
    plain: Message = json.loads(
        json.dumps(fields, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
    return plain


def test_what_an_openai_class_merely_knows_of_is_not_invented() -> None:
    assert to_message(ChatCompletionMessage(role="assistant", content="Hi")) == {"role": "assistant", "content": "Hi"}
    given_as_null = ChatCompletionMessage(role="assistant", content="Hi", tool_calls=None)
    assert to_message(given_as_null) == {"role": "assistant", "content": "Hi", "tool_calls": None}


def test_objects_inside_a_message_become_plain_too() -> None:
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
    assert same(plain, {"role": "user", "n": 1, "frozen": {"a": [1, 2]}, "more": {"b": 2}})


def test_the_caller_may_change_its_own_dict_afterwards() -> None:
    own = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    taken = to_message(own)
    own["content"][0]["text"] = "changed"  # type: ignore[index]
    assert taken == {"role": "user", "content": [{"type": "text", "text": "Hi"}]}


def test_two_halves_of_a_character_in_a_row_become_the_character() -> None:
    halves = {"role": "user", "content": "a\ud83d\ude00", "x\ud83d\ude00": ["\ud83d\ude00\ud83d"]}
    whole = {"role": "user", "content": "a😀", "x😀": ["😀\ud83d"]}
    assert same(to_message(halves), whole)
    assert same(through_a_row(halves), whole)
    with pytest.raises(InvalidMessage, match="same text"):
        to_message({"role": "user", "😀": 1, "\ud83d\ude00": 2})


@pytest.mark.parametrize("depth", [DEEPEST - 1, DEEPEST, 10_000])
def test_a_message_too_deep_is_refused_and_one_just_not_comes_back(depth: int) -> None:
    nested: Any = "bottom"
    for _ in range(depth):
        nested = [nested]
    message = {"role": "user", "content": nested}
    if depth < DEEPEST:
        assert same(through_a_row(message), message)
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


def test_a_whole_number_is_kept_up_to_what_every_python_reads() -> None:
    assert through_a_row({"role": "user", "n": 10**4299})["n"] == 10**4299
    with pytest.raises(InvalidMessage, match="digits"):
        to_message({"role": "user", "n": 10**4300})


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
def test_what_is_no_message_is_refused_with_the_reason(value: object, why: str) -> None:
    with pytest.raises(InvalidMessage, match=why):
        to_message(value)


def test_a_model_that_pydantic_cannot_write_is_refused() -> None:
    class Unwritable(BaseModel):
        role: str

        @field_serializer("role")
        def refuse(self, value: str) -> str:
            raise ValueError("not this role")

    with pytest.raises(InvalidMessage, match=r"Unwritable cannot be written as JSON: .*not this role"):
        to_message(Unwritable(role="user"))


# --- stored ---


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
def test_what_a_column_cannot_hold_goes_into_extra(message: Message, stored: StoredMessage) -> None:
    assert encode(message) == stored
    assert decode(stored) == message


@pytest.mark.parametrize("extra", ["", "[1]", "null", "{", '"x"'])
def test_a_damaged_extra_is_an_error_and_never_an_empty_message(extra: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting"):
        decode(StoredMessage("user", None, "x", extra))


@quick
@given(st.none() | text)
def test_a_label_comes_back_from_its_column(label: str | None) -> None:
    column = to_column(label)
    assert column is None or is_storable(column)
    assert from_column(column) == label


@quick
@given(json_value)
def test_json_is_written_so_that_any_database_holds_it_and_reads_back_equal(value: object) -> None:
    written = to_json(to_plain(value))
    assert is_storable(written)
    assert same(json.loads(written), value)


# --- request ---


@quick
@given(any_message)
def test_the_request_form_is_plain_json_without_nulls_that_utf8_carries(message: Message) -> None:
    request = to_request(message)
    assert None not in request.values()
    json.dumps(request, ensure_ascii=False).encode()
    assert request["role"] == to_request({"role": message["role"]})["role"]
    assert same(to_request(request), request)


@quick
@given(any_message)
def test_making_a_request_form_leaves_the_exact_one_alone(message: Message) -> None:
    before = json.dumps(message)
    to_request(message)
    assert json.dumps(message) == before


def _sent(value: Any) -> Any:
    """`value` as UTF-8 can carry it, found another way than the code does."""
    if isinstance(value, str):
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)
    if isinstance(value, list):
        return [_sent(item) for item in value]
    if isinstance(value, dict):
        return {_sent(key): _sent(item) for key, item in value.items()}
    return value


@quick
@given(request_message)
def test_a_message_that_openais_types_allow_in_a_request_is_sent_as_it_is_but_for_nulls(message: Message) -> None:
    request = to_request(message)
    kept = {key: _sent(value) for key, value in message.items() if value is not None}
    if not message.get("tool_calls"):
        kept.pop("tool_calls", None)
    assert {key: value for key, value in request.items() if key != "content"} == {
        key: value for key, value in kept.items() if key != "content"
    }
    assert request.get("content", "") == kept.get("content", "")


@quick
@given(request_message | reply_message)
def test_a_request_has_every_field_that_openais_types_require_and_no_other(message: Message) -> None:
    request = to_request(message)
    kind = next(kind for kind in param_types if message["role"] in str(kind.__annotations__["role"]))
    assert set(request) <= set(kind.__annotations__)
    assert set(request) >= required_keys(kind)
    if request["role"] == "assistant" and not {"tool_calls", "function_call", "audio"} & set(request):
        assert "content" in request  # "required unless tool_calls or function_call is specified"


CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("exact", "request_form"),
    [
        # The API reference, "Assistant message": content is required unless there are calls; audio is {"id"}.
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
        # What only a reply has.
        (
            {"content": "4", "reasoning": "2+2", "reasoning_content": "2+2", "reasoning_details": [{"text": "2+2"}]},
            {"content": "4"},
        ),
        ({"content": "{}", "parsed": {"a": 1}}, {"content": "{}"}),
        ({"content": "Hi", "annotations": [{"type": "url_citation"}]}, {"content": "Hi"}),
        # Vendors' fields, and nulls inside them, are theirs.
        ({"content": "Hi", "prefix": True, "x": {"y": None}}, {"content": "Hi", "prefix": True, "x": {"y": None}}),
        # No UTF-8 body carries a lone surrogate.
        ({"content": "\ud83dx", "\ude00": ["\ude00"]}, {"content": "\ufffdx", "\ufffd": ["\ufffd"]}),
    ],
)
def test_of_an_assistants_message_goes_back_what_an_api_accepts(exact: Message, request_form: Message) -> None:
    assert to_request({"role": "assistant", **exact}) == {"role": "assistant", **request_form}


@pytest.mark.parametrize("role", ["user", "tool", "function", "system", "developer", "x_vendor"])
def test_of_other_roles_only_nulls_are_changed(role: str) -> None:
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


def test_what_the_openai_package_parsed_is_stored_and_not_sent() -> None:
    class Sum(BaseModel):
        total: int

    reply = ParsedChatCompletionMessage[Sum](role="assistant", content='{"total": 4}', parsed=Sum(total=4))
    exact = through_a_row(reply)
    assert exact == {"role": "assistant", "content": '{"total": 4}', "parsed": {"total": 4}}
    assert to_request(exact) == {"role": "assistant", "content": '{"total": 4}'}


# --- digest ---


@quick
@given(any_message)
def test_a_digest_is_the_same_whatever_the_order_of_keys_and_after_the_row(message: Message) -> None:
    shuffled = dict(reversed(message.items()))
    assert digest(b"", shuffled) == digest(b"", message) == digest(b"", through_a_row(message))
    assert len(digest(b"", message)) == 16


@quick
@given(any_message, any_message, st.binary(min_size=16, max_size=16))
def test_different_messages_have_different_digests_and_so_have_their_descendants(
    one: Message, other: Message, parent: bytes
) -> None:
    assert (digest(parent, one) == digest(parent, other)) == same(_sorted(one), _sorted(other))
    assert digest(parent, one) != digest(b"", one)
    child = {"role": "user", "content": "Go on"}
    assert digest(digest(parent, one), child) != digest(digest(b"", one), child)


def _sorted(message: Mapping[str, Any]) -> object:
    return json.loads(json.dumps(message, sort_keys=True))


@pytest.mark.parametrize("one", [0, 0.0, False, None, "", "0", [], [0], {}])
def test_every_value_of_every_field_counts_for_the_digest(one: object) -> None:
    others = [digest(b"", {"role": "user", "x": value}) for value in (1, 1.0, True, "1", [1], {"a": 1})]
    others.append(digest(b"", {"role": "user"}))
    assert digest(b"", {"role": "user", "x": one}) not in others
    assert len(set(others)) == len(others)


# --- what a caller says ---


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
def test_the_readable_text_of_a_message(message: Message, readable: str) -> None:
    assert text_of({"role": "assistant", **message}) == readable


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
def test_what_is_said_may_be_text_or_parts_or_messages(value: object, messages: list[Message]) -> None:
    assert to_input(value) == messages


@pytest.mark.parametrize(
    "value", ["", " \n\t", "\u3000", [], [USER, PART], ["Hi"], [[USER]], None, 3, {"content": "x"}]
)
def test_what_says_nothing_is_refused(value: object) -> None:
    with pytest.raises(InvalidMessage):
        to_input(value)


def test_a_senders_name_is_for_text() -> None:
    assert to_input("Hi", name="li") == [{"role": "user", "content": "Hi", "name": "li"}]
    assert to_input([PART], name="li") == [{"role": "user", "content": [PART], "name": "li"}]
    with pytest.raises(InvalidMessage, match="own name"):
        to_input(USER, name="li")


def test_halves_are_joined_only_where_they_meet() -> None:
    assert rejoin("\ud83d\ude00") == "😀"
    assert rejoin("\ude00\ud83d") == "\ude00\ud83d"
    assert rejoin("a\ud83db") == "a\ud83db"


def test_a_whole_completion_is_no_message() -> None:
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
