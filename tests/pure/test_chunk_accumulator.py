"""A stream, however it is cut, becomes the message that would have come whole."""

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from convstore.messages import codec
from convstore.messages.chunk_accumulator import Accumulator
from convstore.messages.codec import rejoin, text_of
from convstore.messages.completion import Completion
from tests.pure.strategies import cuts, text

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON = dict[str, Any]


def choice(delta: JSON | None, finish: str | None = None, index: int = 0, **more: Any) -> JSON:
    """A chunk of one choice."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
        **more,
    }


def streamed(*chunks: object) -> tuple[list[str], Completion]:
    """The pieces yielded, and the completion."""
    reply = Accumulator()
    pieces = [reply.add(chunk) for chunk in chunks]
    return pieces, reply.completion()


def message_of(*deltas: JSON) -> JSON:
    """The first choice's message of a stream of these deltas."""
    (message,) = streamed(*(choice(delta) for delta in deltas), choice({}, "stop"))[1].messages
    return message


# --- any message, cut in any way ---


@st.composite
def cut_reply(draw: st.DrawFn) -> tuple[JSON, list[JSON]]:
    """A reply, and deltas that make it up: its fields interleaved, each of them in order."""
    message: JSON = {"role": "assistant"}
    fields: list[list[JSON]] = []
    for key in draw(st.lists(st.sampled_from(["content", "refusal", "reasoning_content", "x_vendor"]), unique=True)):
        message[key] = draw(text | st.text(max_size=40).map(rejoin))
        fields.append([{key: piece} for piece in draw(cuts(message[key]))])
    calls = [draw(cut_call(index)) for index in range(draw(st.integers(0, 3)))]
    if calls:
        message["tool_calls"] = [call for call, _ in calls]
        fields += [[{"tool_calls": [part]} for part in parts] for _, parts in calls]
    if draw(st.booleans()):
        arguments = draw(text)
        message["function_call"] = {"name": "look", "arguments": arguments}
        fields.append(
            [{"function_call": {"name": "look", "arguments": ""}}]
            + [{"function_call": {"arguments": piece}} for piece in draw(cuts(arguments))]
        )
    if draw(st.booleans()):
        transcript = draw(text)
        message["audio"] = {"id": "audio_1", "transcript": transcript, "data": "AAAA", "expires_at": 9}
        fields.append(
            [{"audio": {"id": "audio_1"}}]
            + [{"audio": {"transcript": piece}} for piece in draw(cuts(transcript))]
            + [{"audio": {"transcript": "", "data": "AA"}}, {"audio": {"data": "AA"}}, {"audio": {"expires_at": 9}}]
        )
    order = draw(st.permutations([place for place, deltas in enumerate(fields) for _ in deltas]))
    queues = [iter(deltas) for deltas in fields]
    nulls: JSON = dict.fromkeys(draw(st.sets(st.sampled_from([*message]))))
    first = {**nulls, "role": "assistant"}
    return message, [first, *(next(queues[place]) for place in order)]


@st.composite
def cut_call(draw: st.DrawFn, index: int) -> tuple[JSON, list[JSON]]:
    """A tool call, and the fragments that it comes in."""
    kind, field = draw(st.sampled_from([("function", "arguments"), ("custom", "input")]))
    name = draw(st.sampled_from(["look", "look_up"]))
    value = draw(text | st.just('{"city": "北京"}'))
    call: JSON = {"id": f"call_{index}", "type": kind, kind: {"name": name, field: value}}
    pieces = draw(cuts(value))
    # What some servers repeat with every fragment, whole.
    again: JSON = draw(
        st.sampled_from([{}, {"id": call["id"]}, {"id": call["id"], "type": kind}, {"id": ""}, {"id": None}])
    )
    named: JSON = draw(st.sampled_from([{}, {"name": name}, {"name": None}, {"name": ""}]))
    first = {"index": index, "id": call["id"], "type": kind, kind: {"name": name, field: ""}}
    return call, [first, *({"index": index, **again, kind: {**named, field: piece}} for piece in pieces)]


@quick
@given(cut_reply())
def test_any_reply_cut_in_any_way_is_the_reply_that_was_not(cut: tuple[JSON, list[JSON]]) -> None:
    message, deltas = cut
    pieces, completion = streamed(*(choice(delta) for delta in deltas), choice({}, "stop"))
    (assembled,) = completion.messages
    assert without_nulls(assembled, message) == without_calls_order(message)
    assert "".join(pieces) == message.get("content", "")
    assert completion.finish_reason == "stop"


def without_nulls(assembled: JSON, message: JSON) -> JSON:
    """A field of which a null came, and then nothing but empty text, may be either."""
    kept = {key: "" if value is None and message.get(key) == "" else value for key, value in assembled.items()}
    return without_calls_order(kept)


def without_calls_order(message: JSON) -> JSON:
    """Calls in the order of their ids: interleaved, they stand in the order in which they began."""
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": sorted(message["tool_calls"], key=lambda call: str(call["id"]))}


@quick
@given(cut_reply())
def test_openais_own_chunk_objects_make_the_same_as_dicts(cut: tuple[JSON, list[JSON]]) -> None:
    _, deltas = cut
    chunks = [*(choice(delta) for delta in deltas), choice({}, "stop")]
    assert streamed(*chunks) == streamed(*(ChatCompletionChunk.construct(**chunk) for chunk in chunks))


@quick
@given(st.lists(cut_reply(), min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_choices_interleaved_do_not_mix(cut: list[tuple[JSON, list[JSON]]], random: Any) -> None:
    queues = [
        [choice(delta, index=index) for delta in deltas] + [choice({}, f"stop{index}", index)]
        for index, (_, deltas) in enumerate(cut)
    ]
    chunks = []
    while any(queues):
        chunks.append(random.choice([queue for queue in queues if queue]).pop(0))
    pieces, completion = streamed(*chunks)
    alone = [streamed(*(choice(delta) for delta in deltas), choice({}, "stop"))[1].messages[0] for _, deltas in cut]
    assert list(completion.messages) == alone
    assert completion.finish_reason == "stop0"
    assert "".join(pieces) == cut[0][0].get("content", "")


# --- characters of two halves ---


def test_a_character_cut_in_two_is_yielded_whole() -> None:
    pieces, completion = streamed(
        choice({"content": "a\ud83d"}), choice({"content": None}), choice({"content": "\ude00b"}), choice({}, "stop")
    )
    assert pieces == ["a", "", "😀b", ""]
    assert completion.messages[0]["content"] == "a😀b"


def test_half_a_character_that_nothing_follows_is_kept_and_yielded_at_the_end() -> None:
    pieces, completion = streamed(choice({"content": "a\ud83d"}), choice({}, "stop"))
    assert pieces == ["a", "\ud83d"]
    assert completion.messages[0]["content"] == "a\ud83d"
    assert streamed(choice({"content": "a\ud83d"}, "stop"))[0] == ["a\ud83d"]


def test_half_a_character_before_other_text_is_not_lost() -> None:
    assert streamed(choice({"content": "\ud83d"}), choice({"content": "x"}))[0] == ["", "\ud83dx"]


# --- what servers do ---


def call(id: str | None = None, index: int | None = None, name: str | None = None, arguments: str = "") -> JSON:
    """A fragment of a tool call, with no more fields than are given."""
    function = {"name": name, "arguments": arguments} if name is not None else {"arguments": arguments}
    fragment: JSON = {"function": function}
    if id is not None:
        fragment["id"] = id
    if index is not None:
        fragment["index"] = index
    return {"tool_calls": [fragment]}


LOOK_X = {"id": "1", "function": {"name": "look", "arguments": '{"x":1}'}}
LOOK_Y = {"id": "2", "function": {"name": "look", "arguments": '{"y":2}'}}


@pytest.mark.parametrize(
    "deltas",
    [
        # OpenAI
        [
            call("1", 0, "look"),
            call(None, 0, None, '{"x"'),
            call(None, 0, None, ":1}"),
            call("2", 1, "look", '{"y":2}'),
        ],
        # all parallel calls under one number: Gemini's servers, several gateways
        [call("1", 0, "look", '{"x":1}'), call("2", 0, "look", '{"y":2}')],
        [
            call("1", 0, "look", '{"x"'),
            call(None, 0, None, ":1}"),
            call("2", 0, "look"),
            call(None, 0, None, '{"y":2}'),
        ],
        # no numbers at all
        [call("1", None, "look", '{"x":1}'), call("2", None, "look", '{"y":2}')],
        [call("1", None, "look"), call("1", None, None, '{"x":1}'), call("2", None, "look", '{"y":2}')],
        [call("1", None, "look"), call("2", None, "look", '{"y":2}'), call("1", None, "look", '{"x":1}')],
        [call("1", None, "look"), call(None, None, None, '{"x":1}'), call("2", None, "look", '{"y":2}')],
        # the id and the whole name again with every fragment
        [call("1", 0, "look", '{"x"'), call("1", 0, "look", ":1}"), call("2", 1, "look", '{"y":2}')],
        # another id with every fragment
        [call("1", 0, "look", '{"x"'), call("9", 0, None, ":1}"), call("2", 1, "look", '{"y":2}')],
        # both in one delta
        [
            {
                "tool_calls": [
                    *call("1", 0, "look", '{"x":1}')["tool_calls"],
                    *call("2", 1, "look", '{"y":2}')["tool_calls"],
                ]
            }
        ],
    ],
)
def test_parallel_calls_stay_apart_however_a_server_numbers_them(deltas: list[JSON]) -> None:
    assert message_of(*deltas)["tool_calls"] == [LOOK_X, LOOK_Y]


def test_calls_without_number_and_id_begin_with_their_name() -> None:
    nameless = [{"function": LOOK_X["function"]}, {"function": LOOK_Y["function"]}]
    deltas = [call(None, None, "look", '{"x":1}'), call(None, None, "look", '{"y"'), call(None, None, None, ":2}")]
    assert message_of(*deltas)["tool_calls"] == nameless


def test_the_number_of_a_fragment_is_no_field_of_the_call() -> None:
    assert message_of(call("1", 3, "look", '{"x":1}'))["tool_calls"] == [LOOK_X]


def test_what_names_a_thing_is_not_doubled_when_it_is_repeated() -> None:
    again = {"role": "assistant", "id": "m1", "content": "ha"}
    assert message_of(again, again) == {"role": "assistant", "id": "m1", "content": "haha"}


def test_a_name_that_comes_in_pieces_is_joined() -> None:
    assert message_of(call("1", 0, "look"), call(None, 0, "_up"))["tool_calls"][0]["function"]["name"] == "look_up"


def test_thinking_in_parts_and_then_text_is_all_kept() -> None:
    def thinking(piece: str) -> JSON:
        return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": piece}]}]}

    deltas = [
        {"role": "assistant", "content": ""},
        thinking("2 and "),
        thinking("2."),
        {"content": "4"},
        {"content": "."},
    ]
    pieces, completion = streamed(*(choice(delta) for delta in deltas), choice({"content": ""}, "stop"))
    assert completion.messages[0]["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "2 and 2."}]},
        {"type": "text", "text": "4."},
    ]
    assert "".join(pieces) == text_of(completion.messages[0]) == "4."


def test_text_and_then_parts_is_all_kept() -> None:
    reference = {"type": "reference", "reference_ids": [1]}
    message = message_of({"content": "a"}, {"content": [reference]}, {"content": [reference]}, {"content": "b"})
    assert message["content"] == [{"type": "text", "text": "a"}, reference, reference, {"type": "text", "text": "b"}]


def test_a_vendors_numbered_items_grow_and_its_others_are_added() -> None:
    details: list[list[JSON]] = [
        [{"type": "reasoning.text", "index": 0, "text": "a", "signature": None}],
        [{"type": "reasoning.text", "index": 0, "text": "b"}, {"type": "reasoning.encrypted", "index": 1, "data": "x"}],
        [{"type": "reasoning.text", "index": 0, "signature": "sig"}],
    ]
    citations: list[list[JSON]] = [[{"url": "a"}], [{"url": "a"}, {"url": "b"}]]
    message = message_of(*({"reasoning_details": items} for items in details), *({"citations": c} for c in citations))
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "ab", "signature": "sig"},
        {"type": "reasoning.encrypted", "index": 1, "data": "x"},
    ]
    assert message["citations"] == [{"url": "a"}, {"url": "a"}, {"url": "b"}]


def test_of_what_is_no_text_the_last_value_counts() -> None:
    assert message_of({"n": 1, "flag": False, "o": {"a": 1}}, {"n": 2, "flag": True, "o": {"a": 2, "b": 3}}) == {
        "role": "assistant",
        "n": 2,
        "flag": True,
        "o": {"a": 2, "b": 3},
    }


def test_nulls_take_nothing_away_and_are_kept_where_nothing_else_came() -> None:
    deltas: list[JSON] = [{"content": None, "refusal": None}, {"content": "Hi"}, {"content": None, "role": None}]
    assert message_of(*deltas) == {"role": "assistant", "content": "Hi", "refusal": None}


def test_a_message_without_a_role_is_an_assistants() -> None:
    assert message_of({"content": "Hi"})["role"] == "assistant"
    assert message_of({"role": "", "content": "Hi"})["role"] == "assistant"


# --- the end ---

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "completion_tokens_details": {"x": 1}}


def chunk_orders() -> list[list[JSON]]:
    hello, finish = choice({"content": "Hi"}, usage=None), choice({}, "stop", usage=None)
    usage = {"id": "chatcmpl-1", "model": "m", "choices": [], "usage": USAGE}
    return [
        [hello, finish, usage],
        [hello, usage, finish],
        [hello, {**finish, "usage": USAGE}],
        [{**hello, "usage": {"prompt_tokens": 1}}, {**finish, "usage": USAGE}],  # some servers count as they go
        [hello, finish, {**usage, "choices": None}],
    ]


@pytest.mark.parametrize("chunks", chunk_orders())
def test_usage_is_taken_wherever_it_comes(chunks: list[JSON]) -> None:
    completion = streamed(*chunks)[1]
    assert completion.usage == USAGE
    assert completion.finish_reason == "stop"
    assert completion.messages == ({"role": "assistant", "content": "Hi"},)


def test_the_facts_are_the_last_that_were_given() -> None:
    first = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}  # Azure's first chunk
    completion = streamed(first, choice({"content": "Hi"}, system_fingerprint="fp"), choice({}, "stop", model=None))[1]
    assert (completion.response_id, completion.model, completion.system_fingerprint) == ("chatcmpl-1", "m", "fp")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_reply_of_which_one_choice_did_not_end_has_not_ended(missing: int) -> None:
    begun = [choice({"content": "Hi"}, index=index) for index in range(3)]
    ends = [choice({}, "stop", index) for index in range(3) if index != missing]
    completion = streamed(*begun, *ends)[1]
    assert completion.finish_reason is None
    assert len(completion.messages) == 3
    assert streamed(*begun, *ends, choice({}, "length", missing))[1].finish_reason is not None


def test_choices_stand_in_the_order_of_their_numbers() -> None:
    completion = streamed(choice({"content": "b"}, "stop", 1), choice({"content": "a"}, "length", 0))[1]
    assert [message["content"] for message in completion.messages] == ["a", "b"]
    assert completion.finish_reason == "length"


def test_a_choice_without_a_number_is_the_first() -> None:
    chunk = {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    assert streamed(chunk) == (["Hi"], Completion(({"role": "assistant", "content": "Hi"},), "stop"))


@pytest.mark.parametrize(
    "chunk",
    [None, "text", [], {}, {"choices": None}, {"choices": ["x"]}, {"choices": [{}]}, {"choices": [{"delta": None}]}],
)
def test_a_chunk_that_says_nothing_adds_nothing(chunk: object) -> None:
    reply = Accumulator()
    assert reply.add(chunk) == ""
    assert not reply.started
    assert reply.completion().messages == ()
    assert reply.completion().finish_reason is None


def test_a_reply_has_started_once_more_than_its_role_came() -> None:
    reply = Accumulator()
    reply.add(choice({"role": "assistant", "content": "", "refusal": None}))
    assert not reply.started
    reply.add(call_chunk := choice(call("1", 0, "look")))
    assert reply.started
    assert call_chunk["choices"][0]["delta"] == call("1", 0, "look")


def test_a_completion_may_be_asked_for_at_any_time_and_more_may_come() -> None:
    reply = Accumulator()
    for piece in ("a", "b"):
        reply.add(choice({"content": piece, **call("1", 0, "look", piece)}))
        reply.completion().messages[0]["tool_calls"].clear()
    assert reply.completion().messages[0]["content"] == "ab"
    assert reply.completion().messages[0]["tool_calls"][0]["function"]["arguments"] == "ab"


def test_each_chunk_costs_what_it_brings_and_not_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = itertools.count()
    seen = 0

    def counting(given: str) -> str:
        nonlocal seen
        seen += len(given)
        next(looked_at)
        return rejoin(given)

    monkeypatch.setattr("convstore.messages.chunk_accumulator.rejoin", counting)
    monkeypatch.setattr(codec, "rejoin", counting)
    reply = Accumulator()
    for _ in range(2_000):
        reply.add(choice({"content": "五个字的话", **call("1", 0, "look", "12345")}))
    before_the_end = seen
    assert reply.completion().messages[0]["content"] == "五个字的话" * 2_000
    assert before_the_end < 2_000 * 500  # characters looked at: a constant for each chunk
    assert seen - before_the_end < 3 * 2_000 * 10  # and once more when it is put together
