"""Convert text and JSON to a form that every supported database can hold.

PostgreSQL refuses NUL characters. Both databases refuse lone surrogates. These are halves of a character: a Python
string can hold them, and a UTF-8 text cannot.
"""

from __future__ import annotations

import json

from convstore.errors import InvalidMessage

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_to_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def is_storable(text: str) -> bool:
    """Return True if both databases can hold the text unchanged."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def join_surrogates(text: str) -> str:
    """Return the text with each pair of surrogate halves joined to a character.

    A stream may cut an emoji between two deltas. A lone half stays as it is.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


def to_json(value: object) -> str:
    """Return the JSON text of a plain value.

    It has ASCII escapes only if a database could not hold it otherwise.

    Raises:
        InvalidMessage: the value cannot be written as JSON: a number has too many digits, or the nesting is too deep.
    """
    try:
        text = _encode(value)
        if not is_storable(text):
            text = _encode_to_ascii(value)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"the value cannot be written as JSON: {error}") from None
    return text


def to_column(text: str | None) -> str | None:
    """Return a label (a title, a model's name) in the form of a text column.

    It is the text itself, or its JSON form if a database could not hold the text. A text that begins with a quotation
    mark is written as JSON too, so that `from_column` can tell texts from JSON.
    """
    if text is None or (is_storable(text) and not text.startswith('"')):
        return text
    return to_json(text)


def from_column(column: str | None) -> str | None:
    """Return the label that `to_column` wrote."""
    if column is not None and column.startswith('"'):
        return str(json.loads(column))
    return column
