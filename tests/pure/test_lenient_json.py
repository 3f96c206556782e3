"""Test that all of a provider's JSON is read, with odd values kept as text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convstore.messages.lenient_json import find_kept_text, parse_lenient_json, to_lenient_plain
from convstore.messages.plain_json import KeptText

DIGITS = "7" * 5000


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("1e999", "1e999"),
        (DIGITS, DIGITS),
        ("-" + DIGITS, "-" + DIGITS),
    ],
    ids=lambda value: value[:10],
)
def test_a_number_that_json_does_not_have_is_kept_as_text(written: str, kept: str) -> None:
    value = parse_lenient_json(f'{{"a": [{written}, 1], "b": "text"}}')
    assert value == {"a": [kept, 1], "b": "text"}
    assert isinstance(value["a"][0], KeptText)
    assert list(find_kept_text(value)) == ["a.0"]


@pytest.mark.parametrize("depth", [101, 150, 5000, 200_000])
def test_a_value_that_is_nested_too_deeply_is_kept_as_text(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    value = parse_lenient_json(f'{{"before": 1, "deep": {deep}, "after": "]}}{{"}}')
    assert (value["before"], value["after"]) == (1, "]}{")
    (path,) = find_kept_text(value)
    assert path.startswith("deep.0")
    inner = value["deep"]
    outside = 0
    while isinstance(inner, list):
        inner, outside = inner[0], outside + 1
    assert inner == "[" * (depth - outside) + "]" * (depth - outside)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_ordinary_json_gives_the_same_value_as_json_loads(value: Any) -> None:
    text = json.dumps({"value": value})
    assert parse_lenient_json(text) == json.loads(text)
    assert list(find_kept_text(parse_lenient_json(text))) == []


def test_bytes_that_are_not_utf_8_are_replaced_and_the_rest_is_read() -> None:
    assert parse_lenient_json(b'{"a": "caf\xe9", "b": 1}') == {"a": "caf\ufffd", "b": 1}


@pytest.mark.parametrize("text", ["", "<html>", "{", '{"a": }', "[1, 2", b"\xff\xfe\x00"])
def test_text_that_is_not_json_is_refused(text: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_lenient_json(text)


def test_odd_values_in_an_object_are_kept_as_text() -> None:
    deep: Any = "x"
    for _ in range(150):
        deep = [deep]
    value = to_lenient_plain({"a": float("nan"), "b": 10**5000, "deep": deep, "odd": object(), "text": "Hi"})
    assert value["text"] == "Hi"
    assert value["a"] == "NaN"
    assert {path.partition(".")[0] for path in find_kept_text(value)} == {"a", "b", "deep", "odd"}
