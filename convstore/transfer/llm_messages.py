"""Make Chat Completions messages of what both generations of `llm`'s database hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def make_reply(text: str, reasoning: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return an assistant's message, or None if it says nothing."""
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = list(calls)
    return message if len(message) > 2 or text else None


def make_call(id: Any, name: str, arguments: str, number: int) -> dict[str, Any]:
    """Return a tool call; plugins of `llm` may leave out its id."""
    call_id = id if isinstance(id, str) and id else f"call_{name}_{number}"
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments or "{}"}}


def make_result(id: Any, name: str, content: Any, unanswered: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a tool's message and take its call from those that are unanswered."""
    found = next((call for call in unanswered if call["id"] == id), None) or next(
        (call for call in unanswered if not id and call["function"]["name"] == name), None
    )
    if found is not None:
        unanswered.remove(found)
        id = found["id"]
    return {"role": "tool", "tool_call_id": id if isinstance(id, str) and id else f"call_{name}_0", "content": content}
