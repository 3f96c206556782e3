"""Store a message in a row and read it again; compare JSON values by type too."""

from convstore.messages.codec import decode, encode
from convstore.messages.message import Message, to_message
from convstore.messages.storable_text import is_storable


def is_same_json(one: object, other: object) -> bool:
    """Return True if two values are equal and of equal types at any depth.

    For `==` alone, 1, 1.0 and True are equal.
    """
    return one == other and _add_types(one) == _add_types(other)


def _add_types(value: object) -> object:
    if isinstance(value, dict):
        return {key: _add_types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_add_types(item) for item in value]
    return type(value).__name__, repr(value)


def store_and_read(message: object) -> Message:
    """Return a message as it is after it was stored, and check that both databases can hold its row."""
    stored = encode(to_message(message))
    for column in (stored.role, stored.name, stored.content, stored.extra):
        assert column is None or is_storable(column)
    return decode(stored)
