"""Read the messages that a caller passes to `say`, `stream` and `append`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convstore.errors import InvalidMessage
from convstore.messages.completion import Completion, NotACompletion, read_completion
from convstore.messages.message import Message, to_message
from convstore.messages.plain_json import to_plain


def parse_input(value: object, *, role: str = "user", name: str | None = None) -> list[Message]:
    """Return the messages that a caller's input holds, at least one.

    Args:
        value: a text; a message; a list of content parts (one message); or a list of messages.
        role: the role for a text or a list of content parts.
        name: the sender's name, for a text or a list of content parts.

    Raises:
        InvalidMessage: the value is none of these, or it is empty.
    """
    if isinstance(value, (list, tuple)):
        items = [to_plain(item) for item in value]
        if items and all(isinstance(item, dict) and "role" in item for item in items):
            return _check_no_sender_name([to_message(item) for item in items], name)
        if not items or not all(isinstance(item, dict) and "type" in item for item in items):
            raise InvalidMessage("a list must hold messages (each has a role) or content parts (each has a type)")
        content: Any = items
    elif isinstance(value, str):
        content = to_plain(value)
        if not content.strip():
            raise InvalidMessage("the message is empty")
    else:
        return _check_no_sender_name([to_message(value)], name)
    message: Message = {"role": role, "content": content}
    if name is not None:
        message["name"] = name
    return [message]


def parse_append_items(items: Sequence[object]) -> tuple[list[Message], Completion | None]:
    """Return the messages to append, and the completion that holds them, if it is one.

    Args:
        items: values that `parse_input` takes; or a single completion, of which the first message is appended.

    Raises:
        InvalidMessage: an item is not a message, the list is empty, or a completion is not the only item.
    """
    if not items:
        raise InvalidMessage("there is nothing to append: give at least one message")
    messages: list[Message] = []
    for item in items:
        completion = _read_completion_if_any(item)
        if completion is not None:
            if len(items) > 1:
                raise InvalidMessage(
                    "a completion cannot be appended together with other messages; append it in a call of its own"
                )
            return [completion.messages[0]], completion
        messages.extend(parse_input(item))
    return messages, None


def _check_no_sender_name(messages: list[Message], name: str | None) -> list[Message]:
    if name is not None:
        raise InvalidMessage("a message that is an object has its own name; `name` is for a text or content parts")
    return messages


def _read_completion_if_any(value: object) -> Completion | None:
    if isinstance(value, Mapping):
        if "role" in value or "choices" not in value:
            return None
    elif not hasattr(value, "choices"):
        return None
    try:
        return read_completion(value)
    except NotACompletion as error:
        raise InvalidMessage(str(error)) from None
