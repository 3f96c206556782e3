"""Test that any replies become a request that the strictest server accepts."""

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convstore.cli.render.attachment_labels import find_attachments
from convstore.cli.render.message_text import format_message, take_first_words
from convstore.context.summary_plan import write_transcript
from convstore.messages.chunk_accumulator import ChunkAccumulator
from convstore.messages.completion import NotACompletion, read_completion
from convstore.messages.message import Message, extract_text
from convstore.messages.sendable import Outgoing, SendableOptions, make_sendable
from convstore.messages.token_estimate import estimate_message
from convstore.messages.tool_calls import find_broken_calls, insert_placeholders
from convstore.values.results import MessageRecord
from tests.pure.round_trip import store_and_read
from tests.pure.strategies import json_value, reply_message, text
from tests.pure.strict_request import find_faults

thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

USER = Outgoing({"role": "user", "content": "Go on"})
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"p": 1}'}}

odd_id = st.sampled_from([None, "", "call_1", "call_2", "call_2_1", 7, ["x"]])
odd_arguments = (
    st.sampled_from([None, "", "{}", '{"p": 1}', '{"p": "/tm', '{"p":1}{"p":2}', "[]", "null", "1", '{"a": NaN}'])
    | st.just({"p": 1})
    | json_value
)
odd_function = (
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["look", "", None, 3]),
            "arguments": odd_arguments,
            "thought_signature": json_value,
        },
    )
    | json_value
)
odd_call = st.fixed_dictionaries(
    {},
    optional={
        "id": odd_id,
        "type": st.sampled_from(["function", "custom", None, "", "x"]),
        "index": st.integers(0, 2) | st.none(),
        "function": odd_function,
        "custom": st.fixed_dictionaries({}, optional={"name": odd_id, "input": json_value}) | json_value,
        "extra_content": json_value,
    },
)
odd_part: st.SearchStrategy[Any] = st.sampled_from(
    [
        {"type": "text", "text": "a"},
        {"type": "text", "text": ""},
        {"type": "text", "text": None},
        {"type": "text", "text": "a", "annotations": [], "x": None},
        {"type": "refusal", "refusal": "No."},
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "image_url", "image_url": {"url": "data:,"}},
        "a",
        None,
    ]
)
damaged_reply: st.SearchStrategy[Message] = st.builds(
    lambda fields: {"role": "assistant", **fields},
    st.fixed_dictionaries(
        {},
        optional={
            "content": st.sampled_from([None, "", "Hi", "\ud83d", 3, {}]) | st.lists(odd_part, max_size=3) | json_value,
            "refusal": st.sampled_from([None, "", "No."]) | json_value,
            "name": st.sampled_from([None, "", "ada", 3]),
            "tool_calls": st.lists(odd_call | json_value, max_size=3) | json_value,
            "function_call": odd_function,
            "audio": st.sampled_from([None, {}, {"id": None}, {"id": ""}, {"id": "audio_1", "data": "x"}]) | json_value,
            "reasoning_content": text,
            "reasoning_details": json_value,
            "annotations": json_value,
            "x_vendor": json_value,
        },
    ),
)


def make_request(replies: list[Message], **options: Any) -> tuple[list[Message], list[str]]:
    """Return a request with the replies and the changes in it.

    In every second reply, each call has a result under the id that was stored. The others get placeholders.
    """
    history: list[Outgoing] = [USER]
    for number, reply in enumerate(replies):
        history.append(Outgoing(reply, 2 * number + 2, is_reply=True))
        calls = reply.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if number % 2 and isinstance(call, dict) and call.get("id"):
                history.append(Outgoing({"role": "tool", "tool_call_id": call["id"], "content": "1"}))
        history.append(USER)
    made = make_sendable(history, SendableOptions(**options))
    assert len(made.sources) == len(made.messages)
    return insert_placeholders(made.messages, fill=True)[0], made.changes


@thorough
@given(st.lists(damaged_reply | reply_message, min_size=1, max_size=3))
def test_any_reply_becomes_a_request_that_the_strictest_server_accepts(replies: list[Message]) -> None:
    replies = [store_and_read(reply) for reply in replies]
    before = json.dumps(replies)
    request, _ = make_request(replies)
    assert find_faults(request) == []
    assert json.dumps(replies) == before


@thorough
@given(damaged_reply, st.lists(st.integers(1, 9), max_size=3))
def test_any_streamed_reply_becomes_a_request_that_the_strictest_server_accepts(
    reply: Message, cuts: list[int]
) -> None:
    received = ChunkAccumulator()
    for delta in _cut_into_deltas(reply, cuts):
        received.add({"choices": [{"index": 0, "delta": delta}]})
    (message,) = received.to_completion().messages
    request, _ = make_request([store_and_read(message)])
    assert find_faults(request) == []


def _cut_into_deltas(reply: Message, cuts: list[int]) -> list[Message]:
    """Return deltas of a reply.

    Each field is a delta. Each tool call is another delta, and some deltas are repeated.
    """
    deltas = [{key: value} for key, value in reply.items()]
    calls = reply.get("tool_calls")
    if isinstance(calls, list):
        deltas += [{"tool_calls": [call]} for call in calls]
    return deltas + [deltas[place % len(deltas)] for place in cuts]


@thorough
@given(damaged_reply)
def test_a_whole_answer_with_a_damaged_reply_is_read_and_sent(reply: Message) -> None:
    try:
        (message,) = read_completion({"choices": [{"message": reply, "finish_reason": "stop"}]}).messages
    except NotACompletion:
        pytest.fail("the reply is lost")
    assert find_faults(make_request([store_and_read(message)])[0]) == []


@thorough
@given(damaged_reply)
def test_the_request_form_of_a_reply_is_the_same_each_time(reply: Message) -> None:
    assert make_request([reply, reply])[0][: len(make_request([reply])[0])] == make_request([reply])[0]


@thorough
@given(reply_message)
def test_reasoning_and_extra_fields_are_sent_unchanged_if_requested(reply: Message) -> None:
    told: Message = {**reply, "reasoning_content": "hm", "reasoning_details": [{"index": 0, "a": None}], "x": {"y": 1}}
    request, _ = make_request([told], reasoning=True, extra=("x",))
    assert find_faults(request, extra=("x", "reasoning_content", "reasoning_details")) == []
    assert request[1]["reasoning_content"] == "hm"
    assert request[1]["x"] == {"y": 1}


def test_each_result_follows_its_call_and_has_its_id() -> None:
    calls = [{**CALL, "id": None}, {**CALL, "function": {"name": "look", "arguments": "{"}}, {**CALL, "id": "b"}]
    results: list[Message] = [
        {"role": "tool", "tool_call_id": id, "content": text}
        for id, text in (("call_2_1", "x"), ("call_1", "y"), ("b", "z"))
    ]
    made = make_sendable(
        [USER, Outgoing({"role": "assistant", "tool_calls": calls}, 2, is_reply=True), *map(Outgoing, results)]
    )
    request = made.messages
    assert [call["id"] for call in request[1]["tool_calls"]] == ["call_2_1", "b"]
    assert request[2:] == [results[0], results[2]]
    assert find_faults(request) == []
    assert len(made.changes) == 3


@thorough
@given(damaged_reply)
def test_every_reply_can_be_shown_counted_and_summarised(reply: Message) -> None:
    message = store_and_read(reply)
    assert format_message(message)
    take_first_words(message, 40)
    extract_text(message)
    assert estimate_message(message) > 0
    find_broken_calls(message)
    list(find_attachments(message))
    place: Any = dict.fromkeys(field.name for field in fields(MessageRecord))
    write_transcript([MessageRecord(**{**place, "message": message})])
