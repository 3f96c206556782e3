"""Compare the window that is chosen with a search through all possible windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from math import floor
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


def count_tokens(message: dict[str, Any]) -> int:
    """Return the number of tokens that a message of these tests states."""
    return int(message.get("tokens", 1))


def make_message(role: str, number: int, tokens: int) -> dict[str, Any]:
    return {"role": role, "content": f"{role} {number}", "tokens": tokens}


def make_tool_calls(ids: Sequence[str], tokens: int) -> dict[str, Any]:
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls, "tokens": tokens}


@st.composite
def draw_stretch(draw: st.DrawFn) -> tuple[Messages, bool]:
    """Draw a message, or tool calls with their results; True if it may be pinned."""
    tokens = st.integers(1, 30)
    role = draw(st.sampled_from(["user", "user", "assistant", "assistant", "system", "developer", "tools"]))
    if role != "tools":
        return [make_message(role, draw(st.integers(0, 999)), draw(tokens))], True
    ids = [f"call_{draw(st.integers(0, 10**6))}" for _ in range(draw(st.integers(1, 3)))]
    answered = ids if draw(st.integers(0, 9)) else ids[1:]
    results = [{**tool_result(id, "result"), "tokens": draw(tokens)} for id in draw(st.permutations(answered))]
    return [make_tool_calls(ids, draw(tokens)), *results], answered == ids


@st.composite
def draw_past(draw: st.DrawFn) -> tuple[list[MessageRecord], Past]:
    """Draw a path and its `Past`. A summary may replace the first part of the path."""
    path: list[MessageRecord] = []
    pinned: list[MessageRecord] = []
    seq = 0
    for messages, may_be_pinned in draw(st.lists(draw_stretch(), max_size=14)):
        first = len(path)
        for message in messages:
            seq += draw(st.integers(1, 3))
            parent = path[-1].seq if path else Seq(0)
            at, tokens = Position(len(path) + 1), count_tokens(message)
            path.append(MessageRecord(at, Seq(seq), parent, None, NOW, message, b"", Seq(0), tokens))
        if may_be_pinned and draw(st.integers(0, 5)) == 0:
            pinned.extend(path[first:])
    summary = None
    up_to = draw(st.sampled_from([0, 0, *(place for place in find_beginnings(path) if place), len(path)]))
    if up_to:
        last = path[up_to - 1]
        summary = Summary(TurnNumber(7), last.seq, last.position, "so far", draw(st.integers(1, 30)), None, NOW)
    context = [record for record in path[:up_to] if record.message["role"] in CONTEXT]
    begun = draw(st.none() | st.sampled_from(path)) if path else None
    return path, Past(
        path[-1] if path else None, path[up_to:], context, pinned, summary, begun.seq if begun is not None else None
    )


def find_beginnings(path: Sequence[MessageRecord]) -> list[int]:
    """Return the indexes at which turns begin.

    A turn begins at a user's message that does not follow another user's message.
    """
    roles = [record.message["role"] for record in path]
    return [place for place, role in enumerate(roles) if role == "user" and (not place or roles[place - 1] != "user")]


window_options = st.builds(
    WindowOptions,
    last=st.none() | st.integers(0, 4),
    max_context=st.none() | st.integers(1, 300),
    cache_stable=st.booleans(),
    fill_missing_tools=st.booleans(),
)
new_inputs = st.builds(
    lambda tokens, continues, empty: NewInput(
        [] if empty and continues else [make_message("user", -1, tokens)], {}, continues
    ),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
)
scales = st.sampled_from([0.25, 0.7, 1.0, 1.3, 8.0]).map(lambda factor: TokenScale(count_tokens, factor))


def add_placeholders(messages: Messages) -> tuple[Messages, Messages]:
    """Return the messages with placeholders for missing results, and their calls."""
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


def list_windows(path: list[MessageRecord], past: Past, sending: NewInput) -> list[tuple[int, list[MessageRecord]]]:
    """Return all possible windows, the largest first.

    Each is the index at which it begins, and the records of the path that it holds.
    """
    begin = past.summary.up_to_position if past.summary is not None else 0
    places = {begin, *(place for place in find_beginnings(path) if place > begin)}
    if not sending.continues or begin == len(path):
        places.add(len(path))
    always = {record.seq for record in path if record.message["role"] in CONTEXT} | {one.seq for one in past.pinned}
    return [(place, [one for n, one in enumerate(path) if n >= place or one.seq in always]) for place in sorted(places)]


def count_window_tokens(held: list[MessageRecord], past: Past, sending: NewInput, chosen: WindowOptions) -> int:
    messages = [*(one.message for one in held), *sending.messages]
    sent = add_placeholders(messages)[0] if chosen.fill_missing_tools else messages
    summary = past.summary.tokens if past.summary is not None else 0
    return TOKENS_PER_REQUEST + summary + sum(count_tokens(message) for message in sent)


@settings(max_examples=400, deadline=None)
@given(draw_past(), new_inputs, window_options, scales)
def test_the_window_of_whole_turns_that_the_options_ask_for_is_chosen(
    drawn: tuple[list[MessageRecord], Past], sending: NewInput, chosen: WindowOptions, scale: TokenScale
) -> None:
    path, past = drawn
    if not path and not sending.messages:
        with pytest.raises(InvalidMessage):
            choose_window(past, sending, replace(chosen, max_context=None), scale)
        return
    windows = list_windows(path, past, sending)
    if chosen.last is not None:
        turns = chosen.last + sending.continues
        of_tail = [place for place in find_beginnings(path) if place >= windows[0][0]]
        earliest = 0 if len(of_tail) < turns else of_tail[-turns] if turns else len(path)
        windows = [(place, held) for place, held in windows if place >= earliest]
    limit = chosen.max_context
    fitting = [
        (place, held)
        for place, held in windows
        if limit is None or count_window_tokens(held, past, sending, chosen) * scale.factor <= limit
    ]
    if not fitting:
        with pytest.raises(ContextTooLong):
            choose_window(past, sending, chosen, scale)
        return
    place, held = fitting[0]
    if chosen.cache_stable and limit is not None and chosen.last is None and place > windows[0][0]:
        always = list_windows(path, past, replace(sending, continues=False))[-1][1]
        least = count_window_tokens(always, past, sending, chosen)
        room = least + floor((floor(limit / scale.factor) - least) * 3 / 4)
        later = [window for window in fitting if window[0] < len(path)] or fitting
        half = (floor(limit / scale.factor) - least) / 2
        same = [
            (at, some)
            for at, some in later
            if at < len(path)
            and path[at].seq == past.begun
            and (at == later[0][0] or count_window_tokens(some, past, sending, chosen) - least >= half)
        ]
        smaller = [window for window in later if count_window_tokens(window[1], past, sending, chosen) <= room]
        place, held = [*same, *smaller, later[-1]][0]
    stand_in = make_summary_messages(past.summary.text) if past.summary is not None else []
    leading = next((n for n, one in enumerate(held) if one.position > place or one.message["role"] not in CONTEXT), 99)
    of_path = [one.message for one in held]
    exact = [*of_path[:leading], *stand_in, *of_path[leading:], *sending.messages]
    whole, missing = add_placeholders(exact)
    if missing and not chosen.fill_missing_tools:
        with pytest.raises(UnansweredToolCalls) as error:
            choose_window(past, sending, chosen, scale)
        assert list(error.value.calls) == missing
        return
    window = choose_window(past, sending, chosen, scale)
    assert window.messages == [to_request(message) for message in whole]
    assert window.tokens == count_window_tokens(held, past, sending, chosen)
    check_facts(window, path, past, held, place, scale)
    check_shape(window, past)


def check_facts(
    window: Window, path: list[MessageRecord], past: Past, held: list[MessageRecord], place: int, scale: TokenScale
) -> None:
    """Assert that the window report is right."""
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
    """Assert that each call has one result directly after it, and pins are sent."""
    assert not add_placeholders(window.messages)[1]
    for before, message in pairwise([{"role": "begin"}, *window.messages]):
        if message["role"] == "tool":
            assert before["role"] in ("tool", "assistant")
            assert before["role"] == "tool" or before["tool_calls"]
    pinned = [to_request(record.message) for record in past.pinned]
    assert all(message in window.messages for message in pinned)


@settings(max_examples=100, deadline=None)
@given(draw_past(), new_inputs, scales, st.floats(0.05, 0.95))
def test_a_shrunk_window_has_at_most_a_share_of_the_tokens_and_the_same_options(
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
