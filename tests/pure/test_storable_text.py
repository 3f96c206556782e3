"""Test that text and JSON are written so that any database can store them."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convstore.messages.plain_json import to_plain
from convstore.messages.storable_text import from_column, is_storable, join_surrogates, to_column, to_json
from tests.pure.round_trip import is_same_json
from tests.pure.strategies import (
    json_value,
    text,
)

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(st.none() | text)
def test_a_label_comes_back_from_its_column(label: str | None) -> None:
    column = to_column(label)
    assert column is None or is_storable(column)
    assert from_column(column) == label


@quick
@given(json_value)
def test_json_is_written_so_that_any_database_holds_it_and_comes_back_equal(value: object) -> None:
    written = to_json(to_plain(value))
    assert is_storable(written)
    assert is_same_json(json.loads(written), value)


def test_surrogate_halves_are_joined_only_if_they_make_a_character() -> None:
    assert join_surrogates("\ud83d\ude00") == "😀"
    assert join_surrogates("\ude00\ud83d") == "\ude00\ud83d"
    assert join_surrogates("a\ud83db") == "a\ud83db"
