"""Find tool calls without a result, and make results for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from convstore.errors import UnansweredToolCalls
from convstore.messages.message import Message

PLACEHOLDER_RESULT_TEXT = "(no result: this tool was not run)"
"""Sent as the result of a tool call that has no result, if the caller asks for placeholders. It is never stored."""


def tool_result(call_id: str, content: object) -> Message:
    """Return the message that answers a tool call, to `append`.

    >>> tool_result("call_1", "21 degrees")
    {'role': 'tool', 'tool_call_id': 'call_1', 'content': '21 degrees'}

    Args:
        call_id: the `id` of the call in the assistant's `tool_calls`.
        content: the result: a text, or a list of content parts.
    """
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def list_calls(message: Message) -> list[dict[str, Any]]:
    """Return the tool calls of a message; values that are not objects are left out."""
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def repair_arguments(arguments: object) -> str | None:
    """Return a function call's arguments as the text of a JSON object.

    Return None if they are not a JSON object. Some servers send null or "" for a function without parameters, and some
    send the object instead of its text.
    """
    if arguments is None or arguments == "":
        return "{}"
    if isinstance(arguments, dict):
        return json.dumps(arguments, ensure_ascii=False)
    if not isinstance(arguments, str):
        return None
    try:
        return arguments if isinstance(json.loads(arguments, parse_constant=_refuse), dict) else None
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def find_call_fault(call: object) -> str | None:
    """Return why a tool call cannot be sent again, or None if it can."""
    if not isinstance(call, dict):
        return "it is not an object"
    named = call.get(get_call_type(call))
    if not isinstance(named, dict) or not isinstance(named.get("name"), str) or not named["name"]:
        return "it has no name"
    if named is call.get("custom"):
        return None
    return None if repair_arguments(named.get("arguments")) is not None else "its arguments are not a JSON object"


def get_call_type(call: dict[str, Any]) -> str:
    """Return `function` or `custom`, by what the call names; its `type` may be wrong."""
    return (
        "custom" if isinstance(call.get("custom"), dict) and not isinstance(call.get("function"), dict) else "function"
    )


def has_sendable_calls(message: Message) -> bool:
    """Return True if a message has a tool call that can be sent again."""
    calls = message.get("tool_calls")
    return isinstance(calls, list) and any(find_call_fault(call) is None for call in calls)


def find_broken_calls(message: Message) -> list[tuple[str, str]]:
    """Return the id (or name) and the fault of each call that cannot be sent again."""
    calls = message.get("tool_calls")
    found = []
    for call in calls if isinstance(calls, list) else ():
        fault = find_call_fault(call)
        if fault is not None:
            found.append((str(call.get("id") or get_call_name(call)) if isinstance(call, dict) else "?", fault))
    return found


def find_unanswered_calls(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the tool calls without a result, as the assistant's messages hold them."""
    return [call for _, calls in find_missing_results(messages) for call in calls]


def find_missing_results(messages: Sequence[Message]) -> list[tuple[int, list[dict[str, Any]]]]:
    """Return the places of missing results, and the calls that need them.

    A call that cannot be sent again (`find_call_fault`) needs no result.

    Returns:
        A pair for each assistant's message with unanswered calls: the index at which to insert the missing results
        (after the results that follow the message), and the calls.
    """
    found = []
    for place, message in enumerate(messages):
        calls = message.get("tool_calls")
        if message["role"] != "assistant" or not isinstance(calls, list) or not calls:
            continue
        end = place + 1
        answered = []  # not a set, because an id may be a value that cannot be hashed
        while end < len(messages) and messages[end]["role"] == "tool":
            answered.append(messages[end].get("tool_call_id"))
            end += 1
        missing = [call for call in calls if find_call_fault(call) is None and call.get("id") not in answered]
        if missing:
            found.append((end, missing))
    return found


def make_placeholder(call: dict[str, Any]) -> Message:
    """Return a placeholder for the result of a tool call."""
    return tool_result(str(call.get("id")), PLACEHOLDER_RESULT_TEXT)


def insert_placeholders(messages: Sequence[Message], *, fill: bool) -> tuple[list[Message], list[str]]:
    """Return the messages with placeholders, and the ids of the answered calls.

    Each call without a result gets one placeholder.

    Args:
        fill: allow placeholders; if False, a missing result is an error.

    Raises:
        UnansweredToolCalls: a result is missing and `fill` is False.
    """
    missing = find_missing_results(messages)
    if not missing:
        return list(messages), []
    if not fill:
        calls = [call for _, calls in missing for call in calls]
        names = ", ".join(f"{call.get('id')} ({get_call_name(call)})" for call in calls)
        raise UnansweredToolCalls(
            f"tool calls without a result: {names}; `append` the results if no message follows the calls, "
            f"else go back (`undo`), or send placeholders (`fill_missing_tools`)",
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
            whole.append(make_placeholder(call))
    whole.extend(messages[done:])
    return whole, filled


def get_call_name(call: dict[str, Any]) -> str:
    """Return the name of the function or custom tool that a call names, else its type."""
    for kind in ("function", "custom"):
        named = call.get(kind)
        if isinstance(named, dict) and named.get("name"):
            return str(named["name"])
    return str(call.get("type", "tool"))
