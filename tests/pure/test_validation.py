"""Test that ids, names, metadata and limits of callers are checked."""

from typing import Any

import pytest

from convstore.errors import InvalidInput
from convstore.values.validation import (
    check_conversation_name,
    check_id,
    check_limit,
    check_metadata,
    check_owner,
    is_key,
)

LONGEST_KEY = "x" * 255


@pytest.mark.parametrize(
    "text", ["a", "A b", "user-42", "李明", "a/b?c=d&e", "😀", LONGEST_KEY, "文" * 85, "'; drop --", "%_"]
)
def test_printable_text_of_up_to_255_bytes_can_be_an_id_or_an_owner(text: str) -> None:
    assert is_key(text)
    assert check_id(text) == text
    assert check_owner(text) == text


@pytest.mark.parametrize(
    "text", ["a\0", "a\nb", "\t", "\x1b[2J", "\u202e", "\ud800", "\x7f", LONGEST_KEY + "x", "文" * 86, 3, None]
)
def test_any_other_text_is_refused_as_an_id_and_as_an_owner(text: Any) -> None:
    for check in (check_id, check_owner):
        with pytest.raises(InvalidInput, match="printable text") as refused:
            check(text)
        assert len(str(refused.value)) < 200


def test_an_owner_may_be_empty_and_an_id_may_not() -> None:
    assert check_owner("") == ""
    assert not is_key("")
    with pytest.raises(InvalidInput):
        check_id("")


@pytest.mark.parametrize("name", ["a", "0", "olympics", "v1.2_final-x", "奥运会", "É", "x" * 64, None])
def test_a_conversation_name_is_letters_digits_dots_underscores_and_hyphens(name: str | None) -> None:
    assert check_conversation_name(name) == name


@pytest.mark.parametrize("name", ["", "-rf", ".hidden", "_x", "a b", "a/b", "a\n", "x" * 65, "😀", 3])
def test_any_other_conversation_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidInput, match="a name is 1 to 64 letters"):
        check_conversation_name(name)


def test_metadata_may_be_any_json_object() -> None:
    assert check_metadata({"a": [1, {"b": None}], "": "\0"}) == {"a": [1, {"b": None}], "": "\0"}
    refused: list[Any] = [[], "x", {"a": object()}, {1: 2}, {"a": float("nan")}]
    for wrong in refused:
        with pytest.raises(InvalidInput):
            check_metadata(wrong)


@pytest.mark.parametrize("limit", [None, 0, 1, 10**9])
def test_a_limit_is_a_whole_number_of_at_least_0(limit: int | None) -> None:
    assert check_limit(limit) == limit


@pytest.mark.parametrize("limit", [-1, True, 1.0, "1"])
def test_any_other_limit_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidInput, match="a limit must be"):
        check_limit(limit)
