"""Tool calls and their results: which calls are not answered, and what may stand for an answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convstore.errors import UnansweredToolCalls
from convstore.messages.codec import Message

PLACEHOLDER = "(no result: this tool was not run)"
"""What is sent, and never stored, for a tool call that has no result, where the caller asked for it."""


def tool_result(call_id: str, content: object) -> Message:
    """Return the message that answers a tool call, to `append`.

    >>> tool_result("call_1", "21 degrees")
    {'role': 'tool', 'tool_call_id': 'call_1', 'content': '21 degrees'}

    Args:
        call_id: the `id` of the call in the assistant's `tool_calls`.
        content: its result: text, or a list of content parts.
    """
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def unanswered(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the tool calls that no result follows, as the assistant's messages have them."""
    return [call for _, calls in missing_results(messages) for call in calls]


def placeholder(call: dict[str, Any]) -> Message:
    """Return what stands for the result of a call."""
    return tool_result(str(call.get("id")), PLACEHOLDER)


def with_placeholders(messages: Sequence[Message], *, fill: bool) -> tuple[list[Message], list[str]]:
    """Return the messages with a placeholder for each tool call that has no result, and the ids of those calls.

    Raises:
        UnansweredToolCalls: there is such a call, and `fill` is false.
    """
    missing = missing_results(messages)
    if not missing:
        return list(messages), []
    if not fill:
        calls = [call for _, calls in missing for call in calls]
        named = ", ".join(f"{call.get('id')} ({name(call)})" for call in calls)
        raise UnansweredToolCalls(
            f"tool calls without a result: {named}; append the results, if nothing has been said since "
            f"(`convstore tool-result`), else go back (`convstore undo`) or let placeholders be sent "
            f"(fill_missing_tools, `--fill-missing-tools`)",
            calls,
        )
    whole: list[Message] = []
    filled: list[str] = []
    done = 0
    for after, calls in missing:
        whole.extend(messages[done:after])
        done = after
        for call in calls:
            filled.append(str(call.get("id")))
            whole.append(placeholder(call))
    whole.extend(messages[done:])
    return whole, filled


def missing_results(messages: Sequence[Message]) -> list[tuple[int, list[dict[str, Any]]]]:
    """Return, for each assistant's message with calls unanswered, the place after its results, and those calls."""
    found = []
    for place, message in enumerate(messages):
        calls = message.get("tool_calls")
        if message["role"] != "assistant" or not isinstance(calls, list) or not calls:
            continue
        end = place + 1
        answered = set()
        while end < len(messages) and messages[end]["role"] == "tool":
            answered.add(messages[end].get("tool_call_id"))
            end += 1
        missing = [call for call in calls if isinstance(call, dict) and call.get("id") not in answered]
        if missing:
            found.append((end, missing))
    return found


def name(call: dict[str, Any]) -> str:
    """Return what a tool call calls."""
    for kind in ("function", "custom"):
        named = call.get(kind)
        if isinstance(named, dict) and named.get("name"):
            return str(named["name"])
    return str(call.get("type", "tool"))
