"""Messages as training files hold them: in the request form, repaired, of the roles that trainers know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from convstore.messages.message import Message, extract_text
from convstore.messages.sendable import Outgoing, make_sendable
from convstore.messages.tool_calls import list_calls
from convstore.values.exported import ExportedConversation, ExportedMessage

_FIELDS = {
    "system": ("role", "content", "name"),
    "user": ("role", "content", "name"),
    "assistant": ("role", "content", "name", "tool_calls"),
    "tool": ("role", "content", "tool_call_id"),
}
"""The roles, and the fields of each."""

_TEXT_ALONE = frozenset({"text"})
_PART_TYPES = {"user": frozenset({"text", "image_url"}), "assistant": frozenset({"text", "refusal"})}


class NotTrainable(ValueError):
    """Messages cannot stand in a training file; the text says why."""


def make_training_messages(path: Sequence[ExportedMessage]) -> list[Message]:
    """Return the messages of a path for training: one for each message, in their order.

    Instructions of a developer are a system's: trainers know no developer. What a reply lacks to be sent is repaired as
    in a request (`messages.sendable`).

    Raises:
        NotTrainable: a role or a part of a content is none of training, or a tool's result does not follow its call.
    """
    outgoing = [
        Outgoing(one.record.message, one.record.position, is_reply=one.record.message["role"] == "assistant")
        for one in path
    ]
    sendable = make_sendable(outgoing)
    if len(sendable.messages) < len(path):
        raise NotTrainable(sendable.changes[-1])
    made = []
    for source, message in zip(sendable.sources, sendable.messages, strict=True):
        role = "system" if message["role"] == "developer" else message["role"]
        if role not in _FIELDS:
            raise NotTrainable(f"{source.label} has the role {role!r:.40}, which training files do not have")
        made.append(_make_message(source.label, role, message))
    for fault in _find_order_faults(made):
        raise NotTrainable(fault)
    return made


def is_without_text(message: Message) -> bool:
    """Return True if a reply says nothing and calls no tool."""
    return not extract_text(message) and not list_calls(message)


def find_tools(exported: ExportedConversation) -> dict[str, Any]:
    """Return the tools of the latest request that had some, else those that an import kept; {} if there are none."""
    for turn in reversed(exported.turns):
        if turn.purpose is None and isinstance(tools := turn.request.get("tools"), list) and tools:
            parallel = turn.request.get("parallel_tool_calls")
            return {"tools": tools} | ({"parallel_tool_calls": parallel} if isinstance(parallel, bool) else {})
    for known in (exported.conversation.settings, exported.conversation.metadata):
        if isinstance(tools := known.get("tools"), list) and tools:
            return {"tools": tools}
    return {}


def parse_arguments(arguments: str) -> Any:
    """Return the arguments of a call as an object, or the text itself if JSON cannot hold what it says."""
    try:
        value = json.loads(arguments)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return arguments
    return value


def to_plain_text(content: Any) -> tuple[str, int]:
    """Return the text of a content, and how many parts are no text."""
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return "\n\n".join(texts), len(content) - len(texts)
    return (content, 0) if isinstance(content, str) else ("", 0)


def _make_message(label: str, role: str, message: Message) -> Message:
    """Return a message with the fields that training has for its role."""
    made = {key: message[key] for key in _FIELDS[role] if key in message} | {"role": role}
    if not isinstance(made.get("name", ""), str):
        del made["name"]
    content = message.get("content")
    if isinstance(content, list) and content:
        made["content"] = [_make_part(label, role, part) for part in content]
    elif not isinstance(content, str) and not (content is None and made.get("tool_calls")):
        raise NotTrainable(f"{label} has no text")
    return made


def _make_part(label: str, role: str, part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in _PART_TYPES.get(role, _TEXT_ALONE):
        raise NotTrainable(f"{label} has a part of the type {kind!r:.40}, which a {role} of training cannot have")
    value = part.get(kind)
    if kind == "image_url":
        if not isinstance(value, dict) or not isinstance(value.get("url"), str):
            raise NotTrainable(f"{label} has an image without a URL")
        detail = {"detail": value["detail"]} if value.get("detail") in ("auto", "low", "high") else {}
        return {"type": kind, kind: {"url": value["url"], **detail}}
    if not isinstance(value, str):
        raise NotTrainable(f"{label} has a part without a text")
    return {"type": kind, kind: value}


def _find_order_faults(messages: Sequence[Message]) -> Iterator[str]:
    """Yield where a result follows no call, or a call is followed by something else than its result."""
    waiting: list[Any] = []
    for number, message in enumerate(messages, 1):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                yield f"message {number} is a tool's result without its call"
            else:
                waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            yield f"the tool call {waiting[0]!r:.40} before message {number} has no result"
        waiting = [call.get("id") for call in list_calls(message)]
