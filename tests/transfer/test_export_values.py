"""Test how values that may be of any type are read."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from convstore.transfer.export_values import keep_raw, keep_small, make_id, to_id, to_label, to_time

MOMENT = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_700_000_000, MOMENT),
        (1_700_000_000.0, MOMENT),
        (1_700_000_000_000, MOMENT),
        (1_700_000_000_000_000_000, MOMENT),
        ("1700000000", MOMENT),
        ("2023-11-14T22:13:20Z", MOMENT),
        ("2023-11-14T22:13:20", MOMENT),
        ("2023-11-15T00:13:20+02:00", MOMENT),
        (0, None),
        (-5, None),
        (True, None),
        (math.inf, None),
        (math.nan, None),
        (10**400, None),
        ("soon", None),
        ("0001-01-01T00:00:00+14:00", None),
        (None, None),
        ([], None),
    ],
)
def test_times_are_read_in_any_usual_form(value: Any, expected: datetime | None) -> None:
    assert to_time(value) == expected


@pytest.mark.parametrize("value", ["", " ", None, [], {}, True, 1.5])
def test_what_is_no_id_is_none(value: Any) -> None:
    assert to_id(value) is None


def test_an_id_that_cannot_be_stored_is_replaced_by_its_digest() -> None:
    assert to_id("a-b_c") == "a-b_c"
    assert to_id(17) == "17"
    assert to_id("x" * 201) == make_id("x" * 201) != make_id("x" * 202)
    assert to_id("\ud800") == make_id("\ud800")
    assert to_id("a\0") == make_id("a\0")


def test_a_label_is_one_line() -> None:
    assert to_label(" A\n title\0 ") == "A title"
    assert to_label(" ") is None
    assert to_label(7) is None


def test_metadata_is_small() -> None:
    values: dict[str, Any] = {
        "a": "x",
        "b": "",
        "c": None,
        "d": {},
        "e": ["t"],
        "f": [1],
        "g": "x" * 501,
        "h": math.inf,
        "i": 2**70,
    }
    assert keep_small(values) == {"a": "x", "e": ["t"]}


def test_a_raw_value_is_kept_as_far_as_a_message_can_hold_it() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]

    kept = keep_raw({"a": math.inf, "deep": deep})["convstore_imported"]

    depth = 0
    value = kept["deep"]
    while isinstance(value, list):
        (value,) = value
        depth += 1
    assert (kept["a"], depth, value) == ("inf", 89, "[nested more than 90 levels deep]")
