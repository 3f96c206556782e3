"""Test that values that strict JSON does not allow are read and kept as text."""

import json
import math
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from convstore.messages.lenient_json import find_kept_text, parse_lenient_json, to_lenient_plain
from convstore.messages.plain_json import MAX_NESTING_DEPTH, KeptText
from tests.pure.strategies import json_value

odd_text = st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "7" * 5000, "[" * 120 + "]" * 120])


@settings(max_examples=60, deadline=None)
@given(odd_text, json_value)
def test_an_odd_value_is_kept_as_it_was_written_and_nothing_else_changes(odd: str, value: Any) -> None:
    read = parse_lenient_json(f'{{"a": {json.dumps(value)}, "b": [{odd}], "c": {json.dumps(value)}}}')
    plain = parse_lenient_json(json.dumps(value))
    assert json.dumps([read["a"], read["c"]], allow_nan=False) == json.dumps([plain, plain])
    kept = read["b"]
    depth = 2
    while not isinstance(kept, KeptText):
        (kept,), depth = kept, depth + 1
    assert kept in odd
    assert kept == odd or depth == MAX_NESTING_DEPTH + 1


@pytest.mark.parametrize("sign", ["", "-"])
def test_the_sign_of_a_large_integer_is_no_digit(sign: str) -> None:
    largest, larger = f"{sign}1{'0' * 4299}", f"{sign}1{'0' * 4300}"
    assert parse_lenient_json(f'[{largest}, "NaN", NaN]')[0] == int(largest)
    assert parse_lenient_json(f"[{larger}]") == [KeptText(larger)]


def test_json_with_line_breaks_bad_bytes_or_a_byte_order_mark_is_read() -> None:
    assert parse_lenient_json('{"a": "b\nc"}') == {"a": "b\nc"}
    assert parse_lenient_json(b'{"a": "b\xff"}') == {"a": "b\ufffd"}
    assert parse_lenient_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("text", ["", "{", '{"a": }', "<html>", '{"a": 1} x', "[" * 5000])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any message)
        parse_lenient_json(text)


def test_odd_values_in_objects_of_a_client_are_kept_as_text() -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    body = {
        "id": "r",
        "score": math.nan,
        "n": 10**5000,
        "at": date(2026, 1, 2),
        "t": (math.inf,),
        "deep": deep,
        "k": {3: 1},
    }
    for value in (body, ChatCompletion.model_construct(**body)):
        read = to_lenient_plain(value)
        assert read["id"] == "r"
        assert (read["score"], read["at"], read["t"], read["k"]) == ("NaN", '"2026-01-02"', ["Infinity"], {"3": 1})
        assert int(read["n"], 16) == 10**5000
        assert sorted({path.split(".")[0] for path in find_kept_text(read)}) == ["at", "deep", "n", "score", "t"]
        json.dumps(read, allow_nan=False)
