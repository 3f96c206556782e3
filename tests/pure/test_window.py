"""The choice of a window: of random paths, against a choice that tries every place where it might begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convstore.context.window import NewInput, Past, TokenScale, Window, choose_window, make_summary_messages
from convstore.errors import ContextTooLong, InvalidMessage, InvalidParameter, UnansweredToolCalls
from convstore.messages.request_form import to_request
from convstore.messages.token_estimate import TOKENS_PER_REQUEST
from convstore.messages.tool_calls import PLACEHOLDER_RESULT_TEXT, tool_result
from convstore.values.identifiers import Position, Seq, TurnNumber
from convstore.values.results import MessageRecord, Summary
from convstore.values.window_options import WindowOptions, check_window_options, merge_window_options

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTEXT = ("system", "developer")
Messages = list[dict[str, Any]]


def counted(message: dict[str, Any]) -> int:
    """Tokens: what a message of these tests says that it has."""
    return int(message.get("tokens", 1))


def plain(role: str, number: int, tokens: int) -> dict[str, Any]:
    return {"role": role, "content": f"{role} {number}", "tokens": tokens}


def calls_of(ids: Sequence[str], tokens: int) -> dict[str, Any]:
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls, "tokens": tokens}


@st.composite
def stretches(draw: st.DrawFn) -> tuple[Messages, bool]:
    """A message, or tool calls and their results; and whether it may be pinned."""
    tokens = st.integers(1, 30)
    role = draw(st.sampled_from(["user", "user", "assistant", "assistant", "system", "developer", "tools"]))
    if role != "tools":
        return [plain(role, draw(st.integers(0, 999)), draw(tokens))], True
    ids = [f"call_{draw(st.integers(0, 10**6))}" for _ in range(draw(st.integers(1, 3)))]
    answered = ids if draw(st.integers(0, 9)) else ids[1:]
    results = [{**tool_result(id, "result"), "tokens": draw(tokens)} for id in draw(st.permutations(answered))]
    return [calls_of(ids, draw(tokens)), *results], answered == ids


@st.composite
def pasts(draw: st.DrawFn) -> tuple[list[MessageRecord], Past]:
    """A whole path, and the past that it is; perhaps a summary stands for its beginning."""
    path: list[MessageRecord] = []
    pinned: list[MessageRecord] = []
    seq = 0
    for messages, may_be_pinned in draw(st.lists(stretches(), max_size=14)):
        first = len(path)
        for message in messages:
            seq += draw(st.integers(1, 3))
            parent = path[-1].seq if path else Seq(0)
            at, tokens = Position(len(path) + 1), counted(message)
            path.append(MessageRecord(at, Seq(seq), parent, None, NOW, message, b"", Seq(0), tokens))
        if may_be_pinned and draw(st.integers(0, 5)) == 0:
            pinned.extend(path[first:])
    summary = None
    up_to = draw(st.sampled_from([0, 0, *(place for place in beginnings(path) if place), len(path)]))
    if up_to:
        last = path[up_to - 1]
        summary = Summary(TurnNumber(7), last.seq, last.position, "so far", draw(st.integers(1, 30)), None, NOW)
    context = [record for record in path[:up_to] if record.message["role"] in CONTEXT]
    return path, Past(path[-1] if path else None, path[up_to:], context, pinned, summary)


def beginnings(path: Sequence[MessageRecord]) -> list[int]:
    """Where turns begin: at a user's message that no other user's comes right before."""
    roles = [record.message["role"] for record in path]
    return [place for place, role in enumerate(roles) if role == "user" and (not place or roles[place - 1] != "user")]


policies = st.builds(
    WindowOptions,
    last=st.none() | st.integers(0, 4),
    max_context=st.none() | st.integers(1, 300),
    fill_missing_tools=st.booleans(),
)
sendings = st.builds(
    lambda tokens, continues, empty: NewInput(
        [] if empty and continues else [plain("user", -1, tokens)], {}, continues
    ),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
)
scales = st.sampled_from([0.25, 0.7, 1.0, 1.3, 8.0]).map(lambda factor: TokenScale(counted, factor))


def placeholders(messages: Messages) -> tuple[Messages, Messages]:
    """The messages with a placeholder for each call without a result, and the calls."""
    whole: Messages = []
    missing: Messages = []
    open_calls: Messages = []
    for message in [*messages, {"role": "end"}]:
        if message["role"] == "tool":
            open_calls = [call for call in open_calls if call["id"] != message["tool_call_id"]]
        else:
            whole.extend(tool_result(call["id"], PLACEHOLDER_RESULT_TEXT) for call in open_calls)
            missing.extend(open_calls)
            open_calls = list(message.get("tool_calls") or ())
        whole.append(message)
    return whole[:-1], missing


def every_window(path: list[MessageRecord], past: Past, sending: NewInput) -> list[tuple[int, list[MessageRecord]]]:
    """All windows that there might be, the largest first: where each begins, and what of the path it holds."""
    begin = past.summary.up_to_position if past.summary is not None else 0
    places = {begin, *(place for place in beginnings(path) if place > begin)}
    if not sending.continues or begin == len(path):
        places.add(len(path))
    always = {record.seq for record in path if record.message["role"] in CONTEXT} | {one.seq for one in past.pinned}
    return [(place, [one for n, one in enumerate(path) if n >= place or one.seq in always]) for place in sorted(places)]


def tokens_of(held: list[MessageRecord], past: Past, sending: NewInput, chosen: WindowOptions) -> int:
    messages = [*(one.message for one in held), *sending.messages]
    sent = placeholders(messages)[0] if chosen.fill_missing_tools else messages
    summary = past.summary.tokens if past.summary is not None else 0
    return TOKENS_PER_REQUEST + summary + sum(counted(message) for message in sent)


@settings(max_examples=400, deadline=None)
@given(pasts(), sendings, policies, scales)
def test_the_largest_window_of_whole_turns_that_the_policy_allows_is_chosen(
    drawn: tuple[list[MessageRecord], Past], sending: NewInput, chosen: WindowOptions, scale: TokenScale
) -> None:
    path, past = drawn
    if not path and not sending.messages:
        with pytest.raises(InvalidMessage):
            choose_window(past, sending, replace(chosen, max_context=None), scale)
        return
    windows = every_window(path, past, sending)
    if chosen.last is not None:
        turns = chosen.last + sending.continues
        of_tail = [place for place in beginnings(path) if place >= windows[0][0]]
        earliest = 0 if len(of_tail) < turns else of_tail[-turns] if turns else len(path)
        windows = [(place, held) for place, held in windows if place >= earliest]
    limit = chosen.max_context
    fitting = [
        (place, held)
        for place, held in windows
        if limit is None or tokens_of(held, past, sending, chosen) * scale.factor <= limit
    ]
    if not fitting:
        with pytest.raises(ContextTooLong):
            choose_window(past, sending, chosen, scale)
        return
    place, held = fitting[0]
    stand_in = make_summary_messages(past.summary.text) if past.summary is not None else []
    leading = next((n for n, one in enumerate(held) if one.position > place or one.message["role"] not in CONTEXT), 99)
    of_path = [one.message for one in held]
    exact = [*of_path[:leading], *stand_in, *of_path[leading:], *sending.messages]
    whole, missing = placeholders(exact)
    if missing and not chosen.fill_missing_tools:
        with pytest.raises(UnansweredToolCalls) as error:
            choose_window(past, sending, chosen, scale)
        assert list(error.value.calls) == missing
        return
    window = choose_window(past, sending, chosen, scale)
    assert window.messages == [to_request(message) for message in whole]
    assert window.tokens == tokens_of(held, past, sending, chosen)
    check_facts(window, path, past, held, place, scale)
    check_shape(window, past)


def check_facts(
    window: Window, path: list[MessageRecord], past: Past, held: list[MessageRecord], place: int, scale: TokenScale
) -> None:
    """What is put on record is true."""
    facts = window.report.to_json_object()
    before = [one for one in held if one.position <= place]
    assert facts["history"] == len(held)
    assert facts.get("left_out", 0) == len(path) - len(held)
    assert facts["from_seq"] == (path[place].seq if place < len(path) else None)
    assert facts.get("context", []) == [one.seq for one in before if one.message["role"] in CONTEXT]
    assert facts.get("pinned", []) == [one.seq for one in before if one.message["role"] not in CONTEXT]
    assert facts.get("summary") == (past.summary.turn if past.summary is not None else None)
    assert facts["tokens"] == round(window.tokens * scale.factor)
    filled = [one["tool_call_id"] for one in window.messages if one.get("content") == PLACEHOLDER_RESULT_TEXT]
    assert facts.get("filled", []) == filled


def check_shape(window: Window, past: Past) -> None:
    """What any API insists on: results directly after their calls, each call answered once."""
    assert not placeholders(window.messages)[1]
    for before, message in pairwise([{"role": "begin"}, *window.messages]):
        if message["role"] == "tool":
            assert before["role"] in ("tool", "assistant")
            assert before["role"] == "tool" or before["tool_calls"]
    pinned = [to_request(record.message) for record in past.pinned]
    assert all(message in window.messages for message in pinned)


@settings(max_examples=100, deadline=None)
@given(pasts(), sendings, scales, st.floats(0.05, 0.95))
def test_a_narrower_window_is_no_larger_than_it_should_be_and_forgets_nothing_that_was_asked(
    drawn: tuple[list[MessageRecord], Past], sending: NewInput, scale: TokenScale, share: float
) -> None:
    path, past = drawn
    chosen = WindowOptions(on_overflow="trim", last=3, fill_missing_tools=True)
    if not path and not sending.messages:
        return
    window = choose_window(past, sending, chosen, scale)
    smaller = window.shrink(share)
    if smaller is not None:
        assert smaller.tokens * scale.factor <= max(1, window.tokens * scale.factor * share)
        assert smaller.report.options.changed() == {"on_overflow": "trim", "last": 3, "fill_missing_tools": True}
        assert len(smaller.messages) < len(window.messages)


def test_options_are_checked_merged_and_read() -> None:
    good = {"last": 0, "max_context": 1, "history": None, "keep_last": 0, "compact_at": 1}
    assert check_window_options(good) == good
    wrong: list[dict[str, Any]] = [{"last": -1}, {"last": 1.0}, {"last": 2**53}, {"max_context": 0}, {"history": 1}]
    for options in (*wrong, {"on_overflow": "cut"}, {"compact_at": 0}, {"send_reasoning": "no"}):
        with pytest.raises(InvalidParameter):
            check_window_options(options)
    merged = merge_window_options({"last": 1, "max_context": 5}, {"last": None, "history": False})
    assert merged == {"max_context": 5, "history": False}
    assert WindowOptions.from_dict({**merged, "of a later release": 1}) == WindowOptions(history=False, max_context=5)
