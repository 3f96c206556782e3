"""Parse JSON that strangers wrote, within stated limits."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from convstore.messages.plain_json import MAX_NESTING_DEPTH
from convstore.transfer.imported import Problem
from convstore.transfer.source_lines import MAX_LINE_BYTES, Line, describe_limit

MAX_NUMBER_DIGITS = 4300  # Python's own limit (sys.set_int_max_str_digits), and the codec's


class UnreadableJson(ValueError):
    """The bytes are not JSON, or exceed a limit; the text says which."""


def parse_line(name: str, line: Line) -> Any:
    """Return the value of a line of JSON, or a `Problem`; a value is never a `Problem`."""
    place = f"{name}, line {line.number}"
    if line.content is None:
        return Problem(place, f"the line is longer than {describe_limit(MAX_LINE_BYTES)}")
    try:
        return parse_json(line.content)
    except UnreadableJson as error:
        return Problem(place, str(error))


def parse_json(data: bytes) -> Any:
    """Return the value that the bytes are the JSON of.

    Raises:
        UnreadableJson: they are not JSON in UTF-8, nest more than `MAX_NESTING_DEPTH` levels, or hold a number that
            not every program can read.
    """
    try:
        value = _DECODER.decode(data.removeprefix(b"\xef\xbb\xbf").decode())
    except UnreadableJson:
        raise
    except UnicodeDecodeError as error:
        raise UnreadableJson(f"is not UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise UnreadableJson(f"is not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise _refuse_depth() from None
    # Each level has a bracket, so that most values need no walk.
    if data.count(b"[") + data.count(b"{") > MAX_NESTING_DEPTH and is_too_deep(value):
        raise _refuse_depth()
    return value


def is_too_deep(value: Any) -> bool:
    """Return True if lists and objects nest more than `MAX_NESTING_DEPTH` levels."""
    level = [value]
    for _ in range(MAX_NESTING_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _refuse_depth() -> UnreadableJson:
    return UnreadableJson(f"is nested more than {MAX_NESTING_DEPTH} levels deep")


def _read_int(digits: str) -> int:
    if len(digits.removeprefix("-")) > MAX_NUMBER_DIGITS:
        raise UnreadableJson(f"holds a number of more than {MAX_NUMBER_DIGITS} digits")
    return int(digits)


def _read_float(digits: str) -> float:
    number = float(digits)
    if len(digits) > MAX_NUMBER_DIGITS or not math.isfinite(number):
        raise UnreadableJson(f"holds a number that is too large: {digits[:20]}")
    return number


def _refuse_constant(constant: str) -> NoReturn:
    raise UnreadableJson(f"holds {constant}, which is not JSON")


_DECODER = json.JSONDecoder(parse_int=_read_int, parse_float=_read_float, parse_constant=_refuse_constant)
