"""Convert objects of callers and of the openai package to plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from convstore.errors import InvalidMessage
from convstore.messages.storable_text import join_surrogates

# How deep Python's parser can read depends on the stack it is called from. Without a limit of our own, one caller could
# write a message that another could not read.
MAX_NESTING_DEPTH = 100

# 4,300 digits, the most that Python reads (sys.set_int_max_str_digits).
_MAX_INTEGER_BITS = 14_284


class KeptText(str):
    """A value without a form in strict JSON, kept as the text that a provider sent (`lenient_json`)."""

    __slots__ = ()


def to_plain(value: object) -> Any:
    """Return the value as `json.loads` would return it.

    The result holds dict, list, str, int, float, bool and None, and nothing else. Of an object of the openai package,
    only the fields that were set are taken. Pairs of surrogate halves become the character.

    Raises:
        InvalidMessage: JSON cannot represent the value (a key that is not a string, NaN, an unknown object), or it is
            nested too deeply.
    """
    try:
        return _to_plain(value, MAX_NESTING_DEPTH)
    except RecursionError:
        raise InvalidMessage("the value is nested too deeply for the stack that it is read on") from None


def _to_plain(value: object, remaining_depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _to_plain_text(value)
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
    if isinstance(value, Mapping):
        return _to_plain_object(value, remaining_depth - 1)
    dump = getattr(value, "model_dump", None)  # a pydantic model, such as all of openai's are
    if dump is not None and not isinstance(value, type):
        try:
            fields = dump(mode="python", by_alias=True, exclude_unset=True, warnings=False)
        except ValueError as error:  # pydantic's own errors are ValueErrors
            raise InvalidMessage(f"{type(value).__name__} cannot be written as JSON: {error}") from None
        return _to_plain(fields, remaining_depth)
    # openai's types have Iterable for a list. A set has no order to keep, and bytes are no list of numbers.
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
    if isinstance(value, KeptText):
        return value
    # A string that is a member of an enum gives its value here, not its name.
    return join_surrogates(str.__str__(value))
