"""Store a message in a row and read it again. Compare JSON values and their types."""

from convstore.messages.codec import decode, encode
from convstore.messages.message import Message, to_message
from convstore.messages.storable_text import is_storable


def is_same_json(one: object, other: object) -> bool:
    """Return True if two values are equal, with equal types at any depth.

    `==` alone takes 1, 1.0 and True as equal.
    """
    return one == other and _add_types(one) == _add_types(other)


def _add_types(value: object) -> object:
    if isinstance(value, dict):
        return {key: _add_types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_add_types(item) for item in value]
    return type(value).__name__, repr(value)


def store_and_read(message: object) -> Message:
    """Return a message as it is read after it was stored in a row.

    Assert that both databases can store the row.
    """
    stored = encode(to_message(message))
    for column in (stored.role, stored.name, stored.content, stored.extra):
        assert column is None or is_storable(column)
    return decode(stored)
