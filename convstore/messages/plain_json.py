"""Convert objects of callers and of the openai package to plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from convstore.errors import InvalidMessage
from convstore.messages.storable_text import join_surrogates

# The depth that Python's parser can read depends on the caller's stack. Without this limit, one caller could store a
# message that another caller could not read.
MAX_NESTING_DEPTH = 100

# 4,300 digits, the largest number that Python reads (sys.set_int_max_str_digits).
_MAX_INTEGER_BITS = 14_284


class KeptText(str):
    """A value outside strict JSON, kept as the text that the provider sent.

    `lenient_json` makes it.
    """

    __slots__ = ()


def to_plain(value: object) -> Any:
    """Return the value as `json.loads` would return it.

    The result holds only dict, list, str, int, float, bool and None. Fields of an openai object that were not set are
    left out. A pair of surrogate halves becomes the character.

    Raises:
        InvalidMessage: JSON cannot represent the value (a key that is not a string, NaN, an unknown object), or the
            value is nested too deeply.
    """
    try:
        return _to_plain(value, MAX_NESTING_DEPTH)
    except RecursionError:
        raise InvalidMessage("the value is nested too deeply for the stack that it is read on") from None


def _to_plain(value: object, remaining_depth: int) -> Any:
    if isinstance(value, str):
        return _to_plain_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > _MAX_INTEGER_BITS:
            raise InvalidMessage("a whole number has more than 4,300 digits, which not every JSON parser reads")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidMessage(f"{value} is a number that JSON does not have")
        return float(value)
    if remaining_depth == 0:
        raise InvalidMessage(f"the value is nested more than {MAX_NESTING_DEPTH} levels deep")
    if isinstance(value, (dict, Mapping)):  # to look for an abstract class takes longer
        return _to_plain_object(value, remaining_depth - 1)
    dump = getattr(value, "model_dump", None)  # a pydantic model; all types of openai are pydantic models
    if dump is not None and not isinstance(value, type):
        try:
            fields = dump(mode="python", by_alias=True, exclude_unset=True, warnings=False)
        except ValueError as error:  # pydantic's own errors are ValueErrors
            raise InvalidMessage(f"{type(value).__name__} cannot be written as JSON: {error}") from None
        return _to_plain(fields, remaining_depth)
    # openai's types name a list as Iterable. Sets are refused because they have no order, and bytes because they are
    # not meant as a list of numbers.
    if isinstance(value, Iterable) and not isinstance(value, (AbstractSet, bytes, bytearray, memoryview, type)):
        return [_to_plain(item, remaining_depth - 1) for item in value]
    raise InvalidMessage(f"JSON has no form for {type(value).__name__}")


def _to_plain_object(value: Mapping[Any, object], remaining_depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidMessage(f"a key of a JSON object must be a string, not {key!r:.80}")
        text = _to_plain_text(key)
        if text in plain:
            raise InvalidMessage(f"two keys of a JSON object are the same text: {text!r:.80}")
        plain[text] = _to_plain(item, remaining_depth)
    return plain


def _to_plain_text(value: str) -> str:
    if type(value) is str and value.isascii():
        return value
    if isinstance(value, KeptText):
        return value
    # For a string that is a member of an enum, this is its value, not its name.
    return join_surrogates(str.__str__(value))
