"""Make the messages of a request such that the strictest server accepts them.

A caller's messages are sent as they are (`to_request`). A model's messages are repaired. An API may refuse a message
that its own model generated, such as a cut tool call, and would then refuse every later request of the conversation.
The stored messages never change, and each repair is reported. The rules are those of the request types of the openai
package (`ChatCompletionAssistantMessageParam`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from convstore.messages.joined_items import join_reply, list_runs
from convstore.messages.message import Message
from convstore.messages.request_form import IMPORTED_FIELD, ITEM_FIELD, REASONING_FIELDS, to_request
from convstore.messages.tool_calls import find_call_fault, get_call_type, repair_arguments

EMPTY_REPLY_TEXT = "(no text)"
"""Sent instead of a reply without text and calls. Without it, two user messages would follow each other."""

_REQUEST_FIELDS = frozenset({"role", "name", "content", "refusal", "tool_calls", "function_call", "audio"})
_PART_TYPES = frozenset({"text", "refusal"})  # the field with the text of a part has the name of its type
_UNSENT = frozenset({"annotations", "parsed"})  # `to_request` leaves them out
_SILENT = _UNSENT | REASONING_FIELDS | {IMPORTED_FIELD, ITEM_FIELD}  # left out so often that no report names them


class Outgoing(NamedTuple):  # made for each message, and a dataclass takes three times as long to make
    """A message of a request, before it is made sendable."""

    message: Message
    """The exact form."""
    position: int | None = None
    """Its position on the path; None: it is not stored."""
    is_reply: bool = False
    """True: a model wrote the message; False: a caller did."""

    @property
    def label(self) -> str:
        """The words by which a report names the message."""
        return f"message {self.position}" if self.position is not None else "the new message"


@dataclass(frozen=True, slots=True)
class SendableOptions:
    """What is sent of a model's messages besides the fields that every API accepts."""

    reasoning: bool = False
    extra: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Sendable:
    """Messages in the form that the strictest server accepts."""

    messages: list[Message] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    """What was changed in the model's messages."""
    sources: list[Outgoing] = field(default_factory=list)
    """The message from which each of `messages` was made."""


@dataclass(frozen=True, slots=True)
class _Repair:
    options: SendableOptions
    changes: list[str]


def make_sendable(messages: Sequence[Outgoing], options: SendableOptions = SendableOptions()) -> Sendable:
    """Return the request form of messages, and what was changed in the model's ones.

    >>> made = make_sendable([Outgoing({"role": "assistant", "content": ""}, 2, is_reply=True)])
    >>> made.messages, made.changes
    ([{'role': 'assistant', 'content': '(no text)'}], ['message 2: without text, sent as "(no text)"'])
    """
    sendable = Sendable()
    repair = _Repair(options, sendable.changes)
    if any(ITEM_FIELD in outgoing.message for outgoing in messages):
        messages = _join_items(messages, sendable.changes)
    place = 0
    while place < len(messages):
        outgoing = messages[place]
        place += 1
        sendable.sources.append(outgoing)
        if not outgoing.is_reply or _is_plain(outgoing.message, options):
            sendable.messages.append(to_request(outgoing.message, reasoning=options.reasoning))
            continue
        request, ids = _repair_reply(outgoing.message, outgoing.label, repair)
        sendable.messages.append(request)
        while place < len(messages) and messages[place].message["role"] == "tool":
            result = _match_result(messages[place].message, ids, repair)
            if result is not None:
                sendable.messages.append(result)
                sendable.sources.append(messages[place])
            place += 1
    return sendable


def _join_items(messages: Sequence[Outgoing], changes: list[str]) -> list[Outgoing]:
    """Return messages with the items of a reply as one message. A model made the items of a reply."""
    found: list[Outgoing] = []
    for begin, end in list_runs([outgoing.message for outgoing in messages]):
        first = messages[begin]
        if ITEM_FIELD not in first.message or first.message["role"] != "assistant":
            found.append(first)
            continue
        joined, left_out = join_reply([outgoing.message for outgoing in messages[begin:end]])
        changes.extend(f"{first.label}: left out an item of the kind {kind:.40}" for kind in left_out)
        if joined is not None:
            found.append(Outgoing(joined, first.position, is_reply=True))
    return found


def _is_plain(reply: Message, options: SendableOptions) -> bool:
    """Return True if only the text of a reply is sent, so that nothing needs repair."""
    content = reply.get("content")
    if not content or not isinstance(content, str):
        return False
    return len(reply) == 2 or all(
        value is None or key in ("role", "content") or (key in _UNSENT and key not in options.extra)
        for key, value in reply.items()
    )


def _repair_reply(message: Message, label: str, repair: _Repair) -> tuple[Message, list[tuple[Any, str | None]]]:
    """Return the form of a model's message to send, and the ids of its tool calls.

    The ids are a pair for each call: the stored id, and the id that is sent, or None if the call is not sent.
    """
    options = repair.options
    kept = _REQUEST_FIELDS | (REASONING_FIELDS if options.reasoning else frozenset()) | set(options.extra)
    unknown = sorted(key for key, value in message.items() if key not in kept | _SILENT and value is not None)
    if unknown:
        repair.changes.append(f"{label}: left out {', '.join(unknown)} (`send_extra` sends them)")
    request: Message = to_request({key: value for key, value in message.items() if key in kept}, reasoning=True)
    ids: list[tuple[Any, str | None]] = []
    if "tool_calls" in request:
        calls = request.pop("tool_calls")
        calls = calls if isinstance(calls, list) else []
        whole, ids = _repair_calls(calls, label, repair)
        if whole:
            request["tool_calls"] = whole
    if "function_call" in request:
        _repair_function_call(request, label, repair)
    if not isinstance(request.get("refusal", ""), str):
        del request["refusal"]
    if not isinstance(request.get("name", ""), str):
        del request["name"]
    if not isinstance(request.get("audio"), dict) or not isinstance(request["audio"].get("id"), str):
        request.pop("audio", None)
    _repair_content(request, label, repair)
    return request, ids


def _repair_content(request: Message, label: str, repair: _Repair) -> None:
    content = request.get("content")
    if isinstance(content, list):
        parts = [sent for part in content if (sent := _repair_part(part, repair.options)) is not None]
        if len(parts) < len(content):
            count = len(content) - len(parts)
            repair.changes.append(f"{label}: left out {count} part{'s' if count > 1 else ''} of the content")
        if parts:
            request["content"] = parts
        else:
            request.pop("content")
    elif content is not None and not isinstance(content, str):
        repair.changes.append(f"{label}: left out its content, which is not text")
        request.pop("content")
    has_other = any(request.get(key) for key in ("tool_calls", "function_call", "audio"))
    if request.get("content") or (has_other and not request.get("refusal")):
        if not request.get("content"):
            request.pop("content", None)
        return
    if request.get("refusal"):
        # A server that requires text refuses a message with only a refusal.
        request["content"] = request["refusal"]
        return
    request["content"] = EMPTY_REPLY_TEXT
    repair.changes.append(f'{label}: without text, sent as "{EMPTY_REPLY_TEXT}"')


def _repair_part(part: Any, options: SendableOptions) -> dict[str, Any] | None:
    """Return a part of the content to send, or None if a request cannot have it."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "thinking" and options.reasoning:
        return _drop_nulls(part)  # type: ignore[no-any-return]
    if not isinstance(kind, str) or kind not in _PART_TYPES or not isinstance(part.get(kind), str) or not part[kind]:
        return None
    return {"type": kind, kind: part[kind]}


def _repair_calls(
    calls: list[Any], label: str, repair: _Repair
) -> tuple[list[dict[str, Any]], list[tuple[Any, str | None]]]:
    whole: list[dict[str, Any]] = []
    ids: list[tuple[Any, str | None]] = []
    used: set[str] = set()
    for number, call in enumerate(calls, 1):
        fault = find_call_fault(call)
        stored_id = call.get("id") if isinstance(call, dict) else None
        if fault is not None:
            repair.changes.append(f"{label}: left out tool call {number}: {fault}")
            ids.append((stored_id, None))
            continue
        sent = {key: _drop_nulls(value) for key, value in call.items() if key != "index" and value is not None}
        sent["type"] = get_call_type(call)
        if sent["type"] == "function":
            arguments = repair_arguments(call["function"].get("arguments"))
            if arguments != call["function"].get("arguments"):
                repair.changes.append(f"{label}: the arguments of tool call {number} are sent as {arguments:.40}")
            sent["function"] = {**sent["function"], "arguments": arguments}
            sent.pop("custom", None)
        else:
            sent["custom"] = {**sent["custom"], "input": _to_text(sent["custom"].get("input"))}
            sent.pop("function", None)
        sent["id"] = stored_id
        if not isinstance(stored_id, str) or not stored_id or stored_id in used:
            # Made from the position of the message and the number of the call, so that it is the same in every request.
            sent["id"] = f"call_{label.rpartition(' ')[2]}_{number}"
            repair.changes.append(f"{label}: tool call {number} gets the id {sent['id']}")
        used.add(sent["id"])
        ids.append((stored_id, sent["id"]))
        whole.append(sent)
    return whole, ids


def _match_result(result: Message, waiting: list[tuple[Any, str | None]], repair: _Repair) -> Message | None:
    """Return the result of a tool call, with the id that is sent for the call.

    Return None if the call is not sent.

    Args:
        waiting: the ids of the calls without a result. The call of this result is removed from them.
    """
    request = to_request(result, reasoning=repair.options.reasoning)
    answers = request.get("tool_call_id")
    found = next((pair for pair in waiting if answers is not None and answers in pair), None)
    if found is None:
        return request  # it belongs to no call of this reply, and is sent unchanged
    waiting.remove(found)
    if found[1] is None:
        repair.changes.append(f"left out the result of tool call {answers}, which is not sent")
        return None
    return {**request, "tool_call_id": found[1]}


def _repair_function_call(request: Message, label: str, repair: _Repair) -> None:
    call = request["function_call"]
    arguments = repair_arguments(call.get("arguments")) if isinstance(call, dict) else None
    name = call.get("name") if isinstance(call, dict) else None
    if arguments is None or not isinstance(name, str) or not name:
        del request["function_call"]
        repair.changes.append(f"{label}: left out its function call, which is not whole")
        return
    request["function_call"] = {"name": name, "arguments": arguments}


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_drop_nulls(item) for item in value]
    return value


def _to_text(value: object) -> str:
    return value if isinstance(value, str) else ""
