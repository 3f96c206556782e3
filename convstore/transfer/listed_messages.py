"""Check messages that a file lists in the form of Chat Completions, and put them into a tree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from convstore.transfer.derived_ids import DerivedTree

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
MAX_TOOLS_CHARACTERS = 100_000

_IN_PLACE_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")


class NotMessages(ValueError):
    """A value is not a list of messages; the text says why."""


def check_messages(value: Any) -> list[dict[str, Any]]:
    """Return the messages of a list.

    Raises:
        NotMessages: it is no list, it is empty, or one of its values is not a message.
    """
    if not isinstance(value, list) or not value:
        raise NotMessages("has no list of messages")
    for number, message in enumerate(value, 1):
        if (reason := find_fault(message)) is not None:
            raise NotMessages(f"message {number} {reason}")
    return value


def find_fault(message: Any) -> str | None:
    """Return why a value is not a message of Chat Completions, or None if it is one."""
    if not isinstance(message, dict):
        return "is not an object"
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        return f"has the role {role!r:.40}, which is none of Chat Completions"
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        return "is a tool's result without a tool_call_id"
    if isinstance(content, list):
        return None if all(isinstance(part, dict) for part in content) else "has a part that is not an object"
    if isinstance(content, str) or (role == "assistant" and any(message.get(key) for key in _IN_PLACE_OF_CONTENT)):
        return None
    return "has no content"


def add_path(tree: DerivedTree, parent: str | None, messages: Iterable[Mapping[str, Any]]) -> str | None:
    """Add messages one after another and return the id of the last."""
    for message in messages:
        parent = tree.add(parent, message)
    return parent


def keep_tools(record: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the tools of a record, as metadata; note it if they are too long."""
    kept: dict[str, Any] = {}
    for key in ("tools", "functions", "parallel_tool_calls"):
        value = record.get(key)
        if value is None or value in ([], ""):
            continue
        if len(json.dumps(value)) > MAX_TOOLS_CHARACTERS:
            notes.append(f"the {key} are longer than {MAX_TOOLS_CHARACTERS:,} characters and are left out")
        else:
            kept[key] = value
    return kept
