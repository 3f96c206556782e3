"""Join items that make one reply of a model: its reasoning, its text and its tool calls. Pure.

Items are stored one by one. Models get chat messages, in which a reply is one message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from convstore.messages.conversation_items import get_kind, read_items
from convstore.messages.message import Message
from convstore.messages.request_form import ITEM_FIELD


def goes_on(before: Message, message: Message) -> bool:
    """Return True if a message is an item of the same reply as the one before it."""
    return all(ITEM_FIELD in one and one["role"] == "assistant" for one in (before, message))


def list_runs(messages: Sequence[Message]) -> Iterator[tuple[int, int]]:
    """Yield where each chat message begins and ends in messages of which some are items of a reply."""
    begin = 0
    while begin < len(messages):
        end = begin + 1
        while end < len(messages) and goes_on(messages[end - 1], messages[end]):
            end += 1
        yield begin, end
        begin = end


def join_reply(items: Sequence[Message]) -> tuple[Message | None, list[str]]:
    """Return the items of a reply as one chat message, and the kinds of those that it cannot have.

    Return None if a chat message can have none of them.
    """
    message: Message = {"role": "assistant"}
    left_out: list[str] = []
    for item in items:
        said = {key: value for key, value in item.items() if key not in ("role", ITEM_FIELD) and value}
        if not said:
            kinds = [get_kind(one) for one in read_items(item)]
            left_out.extend(kind for kind in kinds if kind != "message")
            if "message" in kinds:
                message.setdefault("content", "")
        for key, value in said.items():
            message[key] = _add(key, message.get(key), value)
    if not message.keys() & {"content", "tool_calls"}:
        return None, left_out or ["reasoning"]
    return message, left_out


def join_messages(messages: Sequence[Message]) -> list[Message]:
    """Return messages with the items of each reply as one chat message; others as they are."""
    found: list[Message | None] = []
    for begin, end in list_runs(messages):
        some = messages[begin:end]
        found.append(join_reply(some)[0] if ITEM_FIELD in some[0] and some[0]["role"] == "assistant" else some[0])
    return [one for one in found if one is not None]


def _add(key: str, known: Any, value: Any) -> Any:
    if not known:
        return value
    if key == "reasoning_content":
        return f"{known}\n\n{value}"
    if isinstance(known, list) and isinstance(value, list) and key != "content":
        return [*known, *value]
    if key == "content":
        return [*_list_parts(known), *_list_parts(value)]
    return value


def _list_parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]
