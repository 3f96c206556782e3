"""Read a provider's JSON, even if it holds values outside strict JSON.

Servers send `NaN`, numbers with thousands of digits, and deep nesting in fields that nobody asked for. Such a value is
kept as text (`KeptText`), so that everything around it can be read and stored. Decision 0022 gives the reasons.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from convstore.errors import InvalidMessage
from convstore.messages.plain_json import MAX_NESTING_DEPTH, KeptText, to_plain

# The largest number of digits that Python converts (sys.set_int_max_str_digits).
_MAX_INTEGER_DIGITS = 4300
# The quantifiers are possessive (`++`, `*+`). Others would take memory for each character of a long text.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


class ParsedObject(dict[str, Any]):
    """A JSON object that `parse_lenient_json` returned; all values in it are plain."""

    __slots__ = ()


def parse_lenient_json(body: bytes | str) -> Any:
    """Return the JSON value of a text.

    An object is a `ParsedObject`. A value outside strict JSON is a `KeptText`.

    >>> parse_lenient_json('{"content": "Hi", "score": NaN}')
    {'content': 'Hi', 'score': 'NaN'}

    Raises:
        ValueError: the text is not JSON, not even in this lenient form.
    """
    text = body if isinstance(body, str) else body.decode(json.detect_encoding(body), "replace")
    try:
        value = _parse(text)
        is_deep = text.count("[") + text.count("{") > MAX_NESTING_DEPTH and _is_deeper(value, MAX_NESTING_DEPTH)
    except RecursionError:
        is_deep = True
    if is_deep:
        mark = secrets.token_hex(16)
        try:
            value = _unmark(_parse(_quote_deep_parts(text, mark)), mark)
        except RecursionError:
            raise ValueError("it is nested too deeply, and not closed") from None
    return ParsedObject(value) if isinstance(value, dict) else value


def _parse(text: str) -> Any:
    # Not strict, because some servers do not escape line breaks in a text.
    try:
        return json.loads(text, parse_float=_parse_float, parse_constant=KeptText, strict=False)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer with too many digits
        return json.loads(
            text, parse_int=_parse_integer, parse_float=_parse_float, parse_constant=KeptText, strict=False
        )


def _is_deeper(value: Any, depth: int) -> bool:
    """Return True if objects and arrays are nested more than `depth` levels deep."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if items is None:
        return False
    return depth == 0 or any(_is_deeper(item, depth - 1) for item in items if isinstance(item, (dict, list)))


def to_lenient_plain(value: object) -> Any:
    """Return a provider's answer as plain JSON.

    A value outside strict JSON is a `KeptText`.

    Args:
        value: an openai object, or a dict of the same form. A `ParsedObject` is returned as it is.
    """
    if isinstance(value, ParsedObject):
        return value
    try:
        return to_plain(value)
    except InvalidMessage:
        return _keep_odd_values(value, MAX_NESTING_DEPTH)


def _keep_odd_values(value: Any, remaining_depth: int) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        value = dump(mode="python", by_alias=True, exclude_unset=True, warnings=False)
    if isinstance(value, float) and not math.isfinite(value):
        return KeptText(json.dumps(value))
    if isinstance(value, (Mapping, list, tuple)):
        if remaining_depth == 0:
            return _to_kept_text(value)
        if isinstance(value, Mapping):
            return {str(key): _keep_odd_values(item, remaining_depth - 1) for key, item in value.items()}
        return [_keep_odd_values(item, remaining_depth - 1) for item in value]
    try:
        return to_plain(value)
    except InvalidMessage:
        return _to_kept_text(value)


def _to_kept_text(value: Any) -> KeptText:
    try:
        return KeptText(hex(value) if isinstance(value, int) else json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError):
        return KeptText(type(value).__name__)


def find_kept_text(value: Any, path: str = "") -> Iterator[str]:
    """Yield where a value holds `KeptText`, such as `choices.0.logprobs.score`."""
    if isinstance(value, KeptText):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from find_kept_text(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from find_kept_text(item, f"{path}.{number}" if path else str(number))


def _parse_float(text: str) -> float | KeptText:
    number = float(text)
    return number if math.isfinite(number) else KeptText(text)  # 1e999


def _parse_integer(text: str) -> int | KeptText:
    return int(text) if len(text.removeprefix("-")) <= _MAX_INTEGER_DIGITS else KeptText(text)


def _quote_deep_parts(text: str, mark: str) -> str:
    """Return the text with each part that is nested too deeply turned into a string."""
    parts: list[str] = []
    done, begin, depth = 0, 0, 0
    for token in _STRING_OR_BRACKET.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
                if depth == MAX_NESTING_DEPTH + 1:
                    begin = token.start()
            case "]" | "}":
                if depth == MAX_NESTING_DEPTH + 1:
                    parts += [text[done:begin], json.dumps(mark + text[begin : token.end()])]
                    done = token.end()
                depth -= 1
    return "".join([*parts, text[done:]])


def _unmark(value: Any, mark: str) -> Any:
    if isinstance(value, str) and value.startswith(mark):
        return KeptText(value[len(mark) :])
    if isinstance(value, dict):
        return {key: _unmark(item, mark) for key, item in value.items()}
    if isinstance(value, list):
        return [_unmark(item, mark) for item in value]
    return value
