"""Test that the chunks of a stream become the message that the model sent."""

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from convstore.messages.chunk_accumulator import ChunkAccumulator
from convstore.messages.completion import Completion
from convstore.messages.message import extract_text
from convstore.messages.storable_text import join_surrogates
from tests.pure.strategies import draw_pieces, text

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON = dict[str, Any]


def make_chunk(delta: JSON | None, finish: str | None = None, index: int = 0, **more: Any) -> JSON:
    """Return a chunk with one choice."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
        **more,
    }


def accumulate(*chunks: object) -> tuple[list[str], Completion]:
    """Return the text that each chunk adds, and the completion."""
    reply = ChunkAccumulator()
    pieces = [reply.add(chunk) for chunk in chunks]
    return pieces, reply.to_completion()


def accumulate_message(*deltas: JSON) -> JSON:
    """Return the first choice's message in a stream of these deltas."""
    (message,) = accumulate(*(make_chunk(delta) for delta in deltas), make_chunk({}, "stop"))[1].messages
    return message


# --- any message, cut in any way ---


@st.composite
def cut_reply(draw: st.DrawFn) -> tuple[JSON, list[JSON]]:
    """Draw a reply and its deltas.

    The deltas of different fields are mixed. The pieces of one field are in order.
    """
    message: JSON = {"role": "assistant"}
    fields: list[list[JSON]] = []
    for key in draw(st.lists(st.sampled_from(["content", "refusal", "reasoning_content", "x_vendor"]), unique=True)):
        message[key] = draw(text | st.text(max_size=40).map(join_surrogates))
        fields.append([{key: piece} for piece in draw(draw_pieces(message[key]))])
    calls = [draw(cut_call(index)) for index in range(draw(st.integers(0, 3)))]
    if calls:
        message["tool_calls"] = [call for call, _ in calls]
        fields += [[{"tool_calls": [part]} for part in parts] for _, parts in calls]
    if draw(st.booleans()):
        arguments = draw(text)
        message["function_call"] = {"name": "look", "arguments": arguments}
        fields.append(
            [{"function_call": {"name": "look", "arguments": ""}}]
            + [{"function_call": {"arguments": piece}} for piece in draw(draw_pieces(arguments))]
        )
    if draw(st.booleans()):
        transcript = draw(text)
        message["audio"] = {"id": "audio_1", "transcript": transcript, "data": "AAAA", "expires_at": 9}
        fields.append(
            [{"audio": {"id": "audio_1"}}]
            + [{"audio": {"transcript": piece}} for piece in draw(draw_pieces(transcript))]
            + [{"audio": {"transcript": "", "data": "AA"}}, {"audio": {"data": "AA"}}, {"audio": {"expires_at": 9}}]
        )
    order = draw(st.permutations([place for place, deltas in enumerate(fields) for _ in deltas]))
    queues = [iter(deltas) for deltas in fields]
    nulls: JSON = dict.fromkeys(draw(st.sets(st.sampled_from([*message]))))
    first = {**nulls, "role": "assistant"}
    return message, [first, *(next(queues[place]) for place in order)]


@st.composite
def cut_call(draw: st.DrawFn, index: int) -> tuple[JSON, list[JSON]]:
    """Draw a tool call and its fragments."""
    kind, field = draw(st.sampled_from([("function", "arguments"), ("custom", "input")]))
    name = draw(st.sampled_from(["look", "look_up"]))
    value = draw(text | st.just('{"city": "北京"}'))
    call: JSON = {"id": f"call_{index}", "type": kind, kind: {"name": name, field: value}}
    pieces = draw(draw_pieces(value))
    # Some servers repeat the whole id, type or name in every fragment.
    again: JSON = draw(
        st.sampled_from([{}, {"id": call["id"]}, {"id": call["id"], "type": kind}, {"id": ""}, {"id": None}])
    )
    named: JSON = draw(st.sampled_from([{}, {"name": name}, {"name": None}, {"name": ""}]))
    first = {"index": index, "id": call["id"], "type": kind, kind: {"name": name, field: ""}}
    return call, [first, *({"index": index, **again, kind: {**named, field: piece}} for piece in pieces)]


@quick
@given(cut_reply())
def test_a_reply_cut_in_any_way_is_put_together_again(cut: tuple[JSON, list[JSON]]) -> None:
    message, deltas = cut
    pieces, completion = accumulate(*(make_chunk(delta) for delta in deltas), make_chunk({}, "stop"))
    (assembled,) = completion.messages
    assert replace_unclear_nulls(assembled, message) == sort_calls(message)
    assert "".join(pieces) == message.get("content", "")
    assert completion.finish_reason == "stop"


def replace_unclear_nulls(assembled: JSON, message: JSON) -> JSON:
    """Return the assembled message with "" instead of null where `message` has "".

    If a field receives only a null and empty text, both values are right.
    """
    kept = {key: "" if value is None and message.get(key) == "" else value for key, value in assembled.items()}
    return sort_calls(kept)


def sort_calls(message: JSON) -> JSON:
    """Return the message with its calls in the order of their ids.

    The mixed deltas may begin the calls in another order.
    """
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": sorted(message["tool_calls"], key=lambda call: str(call["id"]))}


@quick
@given(cut_reply())
def test_openais_chunk_objects_make_the_same_reply_as_dicts(cut: tuple[JSON, list[JSON]]) -> None:
    _, deltas = cut
    chunks = [*(make_chunk(delta) for delta in deltas), make_chunk({}, "stop")]
    assert accumulate(*chunks) == accumulate(*(ChatCompletionChunk.construct(**chunk) for chunk in chunks))


@quick
@given(st.lists(cut_reply(), min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_interleaved_choices_do_not_mix(cut: list[tuple[JSON, list[JSON]]], random: Any) -> None:
    queues = [
        [make_chunk(delta, index=index) for delta in deltas] + [make_chunk({}, f"stop{index}", index)]
        for index, (_, deltas) in enumerate(cut)
    ]
    chunks = []
    while any(queues):
        chunks.append(random.choice([queue for queue in queues if queue]).pop(0))
    pieces, completion = accumulate(*chunks)
    alone = [
        accumulate(*(make_chunk(delta) for delta in deltas), make_chunk({}, "stop"))[1].messages[0] for _, deltas in cut
    ]
    assert list(completion.messages) == alone
    assert completion.finish_reason == "stop0"
    assert "".join(pieces) == cut[0][0].get("content", "")


# --- surrogate halves ---


def test_a_character_cut_in_two_is_returned_whole() -> None:
    pieces, completion = accumulate(
        make_chunk({"content": "a\ud83d"}),
        make_chunk({"content": None}),
        make_chunk({"content": "\ude00b"}),
        make_chunk({}, "stop"),
    )
    assert pieces == ["a", "", "😀b", ""]
    assert completion.messages[0]["content"] == "a😀b"


def test_half_a_character_at_the_end_is_kept_and_returned_with_the_last_chunk() -> None:
    pieces, completion = accumulate(make_chunk({"content": "a\ud83d"}), make_chunk({}, "stop"))
    assert pieces == ["a", "\ud83d"]
    assert completion.messages[0]["content"] == "a\ud83d"
    assert accumulate(make_chunk({"content": "a\ud83d"}, "stop"))[0] == ["a\ud83d"]


def test_half_a_character_before_other_text_is_not_lost() -> None:
    assert accumulate(make_chunk({"content": "\ud83d"}), make_chunk({"content": "x"}))[0] == ["", "\ud83dx"]


# --- what servers do ---


def make_call_delta(
    id: str | None = None, index: int | None = None, name: str | None = None, arguments: str = ""
) -> JSON:
    """Return a delta with a fragment of a tool call that has only the given fields."""
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
            make_call_delta("1", 0, "look"),
            make_call_delta(None, 0, None, '{"x"'),
            make_call_delta(None, 0, None, ":1}"),
            make_call_delta("2", 1, "look", '{"y":2}'),
        ],
        # the same index for all parallel calls, as Gemini's servers and several gateways send them
        [make_call_delta("1", 0, "look", '{"x":1}'), make_call_delta("2", 0, "look", '{"y":2}')],
        [
            make_call_delta("1", 0, "look", '{"x"'),
            make_call_delta(None, 0, None, ":1}"),
            make_call_delta("2", 0, "look"),
            make_call_delta(None, 0, None, '{"y":2}'),
        ],
        # no index
        [make_call_delta("1", None, "look", '{"x":1}'), make_call_delta("2", None, "look", '{"y":2}')],
        [
            make_call_delta("1", None, "look"),
            make_call_delta("1", None, None, '{"x":1}'),
            make_call_delta("2", None, "look", '{"y":2}'),
        ],
        [
            make_call_delta("1", None, "look"),
            make_call_delta("2", None, "look", '{"y":2}'),
            make_call_delta("1", None, "look", '{"x":1}'),
        ],
        [
            make_call_delta("1", None, "look"),
            make_call_delta(None, None, None, '{"x":1}'),
            make_call_delta("2", None, "look", '{"y":2}'),
        ],
        # the id and the whole name in every fragment
        [
            make_call_delta("1", 0, "look", '{"x"'),
            make_call_delta("1", 0, "look", ":1}"),
            make_call_delta("2", 1, "look", '{"y":2}'),
        ],
        # another id in every fragment
        [
            make_call_delta("1", 0, "look", '{"x"'),
            make_call_delta("9", 0, None, ":1}"),
            make_call_delta("2", 1, "look", '{"y":2}'),
        ],
        # both in one delta
        [
            {
                "tool_calls": [
                    *make_call_delta("1", 0, "look", '{"x":1}')["tool_calls"],
                    *make_call_delta("2", 1, "look", '{"y":2}')["tool_calls"],
                ]
            }
        ],
    ],
)
def test_parallel_calls_stay_apart_however_a_server_numbers_them(deltas: list[JSON]) -> None:
    assert accumulate_message(*deltas)["tool_calls"] == [LOOK_X, LOOK_Y]


def test_calls_without_an_index_and_an_id_begin_with_their_name() -> None:
    nameless = [{"function": LOOK_X["function"]}, {"function": LOOK_Y["function"]}]
    deltas = [
        make_call_delta(None, None, "look", '{"x":1}'),
        make_call_delta(None, None, "look", '{"y"'),
        make_call_delta(None, None, None, ":2}"),
    ]
    assert accumulate_message(*deltas)["tool_calls"] == nameless


def test_the_index_of_a_fragment_is_not_a_field_of_the_call() -> None:
    assert accumulate_message(make_call_delta("1", 3, "look", '{"x":1}'))["tool_calls"] == [LOOK_X]


def test_a_repeated_id_or_role_is_not_doubled() -> None:
    again = {"role": "assistant", "id": "m1", "content": "ha"}
    assert accumulate_message(again, again) == {"role": "assistant", "id": "m1", "content": "haha"}


def test_a_name_that_comes_in_pieces_is_joined() -> None:
    assert (
        accumulate_message(make_call_delta("1", 0, "look"), make_call_delta(None, 0, "_up"))["tool_calls"][0][
            "function"
        ]["name"]
        == "look_up"
    )


def test_thinking_in_parts_and_text_after_it_are_both_kept() -> None:
    def thinking(piece: str) -> JSON:
        return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": piece}]}]}

    deltas = [
        {"role": "assistant", "content": ""},
        thinking("2 and "),
        thinking("2."),
        {"content": "4"},
        {"content": "."},
    ]
    pieces, completion = accumulate(*(make_chunk(delta) for delta in deltas), make_chunk({"content": ""}, "stop"))
    assert completion.messages[0]["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "2 and 2."}]},
        {"type": "text", "text": "4."},
    ]
    assert "".join(pieces) == extract_text(completion.messages[0]) == "4."


def test_text_and_parts_after_it_are_both_kept() -> None:
    reference = {"type": "reference", "reference_ids": [1]}
    message = accumulate_message({"content": "a"}, {"content": [reference]}, {"content": [reference]}, {"content": "b"})
    assert message["content"] == [{"type": "text", "text": "a"}, reference, reference, {"type": "text", "text": "b"}]


def test_a_vendors_items_with_an_index_grow_and_others_are_added() -> None:
    details: list[list[JSON]] = [
        [{"type": "reasoning.text", "index": 0, "text": "a", "signature": None}],
        [{"type": "reasoning.text", "index": 0, "text": "b"}, {"type": "reasoning.encrypted", "index": 1, "data": "x"}],
        [{"type": "reasoning.text", "index": 0, "signature": "sig"}],
    ]
    citations: list[list[JSON]] = [[{"url": "a"}], [{"url": "a"}, {"url": "b"}]]
    message = accumulate_message(
        *({"reasoning_details": items} for items in details), *({"citations": c} for c in citations)
    )
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "ab", "signature": "sig"},
        {"type": "reasoning.encrypted", "index": 1, "data": "x"},
    ]
    assert message["citations"] == [{"url": "a"}, {"url": "a"}, {"url": "b"}]


@pytest.mark.parametrize("field", ["reasoning_details", "content"])
def test_thinking_after_a_signature_begins_a_new_item_with_its_own_signature(field: str) -> None:
    def make(**item: str) -> JSON:
        return {field: [{"type": "thinking", "index": 0, **item}]}

    message = accumulate_message(
        make(thinking="a"), make(thinking="b"), make(signature="s1"), make(thinking="c"), make(signature="s2")
    )
    assert message[field] == [
        {"type": "thinking", "index": 0, "thinking": "ab", "signature": "s1"},
        {"type": "thinking", "index": 0, "thinking": "c", "signature": "s2"},
    ]


@pytest.mark.parametrize(
    "calls", [1, "x", {"a": 1}, [3], [[1]], [{"id": ["x"], "index": 0, "function": {"name": "f"}}]]
)
def test_invalid_tool_calls_do_not_affect_the_content(calls: Any) -> None:
    message = accumulate_message({"content": "Hi"}, {"tool_calls": calls}, {"tool_calls": calls}, {"content": "!"})
    assert message["content"] == "Hi!"


def test_an_error_in_a_chunk_is_the_error_of_the_completion() -> None:
    flat = {"object": "error", "message": "No room", "code": 500}
    _, completion = accumulate(make_chunk({"content": "Hi"}), flat)
    assert completion.error == {"type": "ProviderError", "message": "No room", "code": 500}
    assert completion.messages[0]["content"] == "Hi"
    assert accumulate(make_chunk({"content": "Hi"}, "stop"), flat)[1].error is None  # the reply is complete


def test_joining_log_probabilities_does_not_change_the_chunks() -> None:
    first, second = ChunkAccumulator(), ChunkAccumulator()
    chunks = [{"choices": [{"index": 0, "delta": {"content": n}, "logprobs": {"content": [n]}}]} for n in "abc"]
    for chunk in chunks:
        first.add_plain(chunk)
        second.add_plain(chunk)
    for received in (first, second):
        assert received.to_completion().fields == {"choices": [{"logprobs": {"content": ["a", "b", "c"]}}]}
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks] == [{"content": [n]} for n in "abc"]


def test_the_last_value_of_a_field_that_is_not_text_counts() -> None:
    assert accumulate_message(
        {"n": 1, "flag": False, "o": {"a": 1}}, {"n": 2, "flag": True, "o": {"a": 2, "b": 3}}
    ) == {
        "role": "assistant",
        "n": 2,
        "flag": True,
        "o": {"a": 2, "b": 3},
    }


def test_a_null_removes_nothing_and_is_kept_if_no_value_comes() -> None:
    deltas: list[JSON] = [{"content": None, "refusal": None}, {"content": "Hi"}, {"content": None, "role": None}]
    assert accumulate_message(*deltas) == {"role": "assistant", "content": "Hi", "refusal": None}


def test_a_message_without_a_role_gets_the_role_assistant() -> None:
    assert accumulate_message({"content": "Hi"})["role"] == "assistant"
    assert accumulate_message({"role": "", "content": "Hi"})["role"] == "assistant"


# --- the end ---

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "completion_tokens_details": {"x": 1}}


def list_chunk_orders() -> list[list[JSON]]:
    hello, finish = make_chunk({"content": "Hi"}, usage=None), make_chunk({}, "stop", usage=None)
    usage = {"id": "chatcmpl-1", "model": "m", "choices": [], "usage": USAGE}
    return [
        [hello, finish, usage],
        [hello, usage, finish],
        [hello, {**finish, "usage": USAGE}],
        [
            {**hello, "usage": {"prompt_tokens": 1}},
            {**finish, "usage": USAGE},
        ],  # some servers send counts in every chunk
        [hello, finish, {**usage, "choices": None}],
    ]


@pytest.mark.parametrize("chunks", list_chunk_orders())
def test_usage_is_read_from_any_chunk(chunks: list[JSON]) -> None:
    completion = accumulate(*chunks)[1]
    assert completion.usage == USAGE
    assert completion.finish_reason == "stop"
    assert completion.messages == ({"role": "assistant", "content": "Hi"},)


def test_the_last_facts_of_a_stream_count() -> None:
    first = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}  # Azure's first chunk
    completion = accumulate(
        first, make_chunk({"content": "Hi"}, system_fingerprint="fp"), make_chunk({}, "stop", model=None)
    )[1]
    assert (completion.response_id, completion.model, completion.system_fingerprint) == ("chatcmpl-1", "m", "fp")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_reply_has_not_ended_if_one_choice_has_not(missing: int) -> None:
    begun = [make_chunk({"content": "Hi"}, index=index) for index in range(3)]
    ends = [make_chunk({}, "stop", index) for index in range(3) if index != missing]
    completion = accumulate(*begun, *ends)[1]
    assert completion.finish_reason is None
    assert len(completion.messages) == 3
    assert accumulate(*begun, *ends, make_chunk({}, "length", missing))[1].finish_reason is not None


def test_choices_are_in_the_order_of_their_indexes() -> None:
    completion = accumulate(make_chunk({"content": "b"}, "stop", 1), make_chunk({"content": "a"}, "length", 0))[1]
    assert [message["content"] for message in completion.messages] == ["a", "b"]
    assert completion.finish_reason == "length"


def test_a_choice_without_an_index_is_the_first() -> None:
    chunk = {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    assert accumulate(chunk) == (["Hi"], Completion(({"role": "assistant", "content": "Hi"},), "stop"))


@pytest.mark.parametrize(
    "chunk",
    [None, "text", [], {}, {"choices": None}, {"choices": ["x"]}, {"choices": [{}]}, {"choices": [{"delta": None}]}],
)
def test_a_chunk_without_a_delta_adds_nothing(chunk: object) -> None:
    reply = ChunkAccumulator()
    assert reply.add(chunk) == ""
    assert not reply.has_started
    assert reply.to_completion().messages == ()
    assert reply.to_completion().finish_reason is None


def test_a_reply_has_started_when_more_than_its_role_was_received() -> None:
    reply = ChunkAccumulator()
    reply.add(make_chunk({"role": "assistant", "content": "", "refusal": None}))
    assert not reply.has_started
    reply.add(call_chunk := make_chunk(make_call_delta("1", 0, "look")))
    assert reply.has_started
    assert call_chunk["choices"][0]["delta"] == make_call_delta("1", 0, "look")


def test_a_completion_can_be_read_before_more_chunks_are_added() -> None:
    reply = ChunkAccumulator()
    for piece in ("a", "b"):
        reply.add(make_chunk({"content": piece, **make_call_delta("1", 0, "look", piece)}))
        reply.to_completion().messages[0]["tool_calls"].clear()
    assert reply.to_completion().messages[0]["content"] == "ab"
    assert reply.to_completion().messages[0]["tool_calls"][0]["function"]["arguments"] == "ab"


def test_the_cost_of_a_chunk_does_not_grow_with_the_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = itertools.count()
    characters_read = 0

    def counting(given: str) -> str:
        nonlocal characters_read
        characters_read += len(given)
        next(looked_at)
        return join_surrogates(given)

    monkeypatch.setattr("convstore.messages.chunk_accumulator.join_surrogates", counting)
    monkeypatch.setattr("convstore.messages.plain_json.join_surrogates", counting)
    reply = ChunkAccumulator()
    for _ in range(2_000):
        reply.add(make_chunk({"content": "五个字的话", **make_call_delta("1", 0, "look", "12345")}))
    before_the_end = characters_read
    assert reply.to_completion().messages[0]["content"] == "五个字的话" * 2_000
    assert before_the_end < 2_000 * 500  # characters read: a constant for each chunk
    assert characters_read - before_the_end < 3 * 2_000 * 10  # and once more when they are joined
