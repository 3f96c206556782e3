"""Find the message that made a provider refuse a request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from convstore.messages.message import Message, extract_text
from convstore.messages.request_form import to_request
from convstore.messages.sendable import Outgoing, Sendable
from convstore.messages.tool_calls import find_call_fault

# `messages[3].content` (OpenAI), `messages.3.content` (Anthropic), `messages: 3` and `message at index 3` elsewhere.
_INDEX = re.compile(r"\bmessages?\W{0,3}(?:at |with )?(?:index |position )?\W{0,2}(\d{1,6})\b", re.IGNORECASE)
_API_FIELDS = {
    "assistant": frozenset({"role", "content", "name", "refusal", "tool_calls", "function_call", "audio"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
    "function": frozenset({"role", "content", "name"}),
}
_OTHER_FIELDS = frozenset({"role", "content", "name"})
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def find_refused_message(sendable: Sendable, sent: Sequence[Message], error_text: str) -> str | None:
    """Return the message that a provider probably refused, and the fault in it.

    An example is `message 4: its text is empty`. The provider's text may name a message by its index or by the id of a
    tool call. If it names no message, the result is the first message by a caller that the strictest server would
    refuse, or None.

    Args:
        sendable: the messages of the request, and their sources.
        sent: the same objects (no copies), with placeholders between them.
        error_text: the provider's text.
    """
    sources = {id(message): source for message, source in zip(sendable.messages, sendable.sources, strict=True)}
    named = _find_named(sent, error_text)
    if named is not None and id(named) in sources:
        return _describe(sources[id(named)])
    given = (source for source in sendable.sources if not source.is_reply)
    return next((_describe(source) for source in given if find_request_fault(source.message) is not None), None)


def find_request_fault(message: Message) -> str | None:
    """Return why the strictest server would refuse a message in request form, or None."""
    request = to_request(message)
    role, content = request["role"], request.get("content")
    if role not in _ROLES:
        return f"no API has the role {role!r:.40}"
    calls = request.get("tool_calls") if role == "assistant" else None
    if calls is not None:
        fault = _find_calls_fault(calls)
        if fault is not None:
            return fault
    if content is not None and not isinstance(content, (str, list)):
        return "its content is neither a text nor a list of parts"
    has_other = bool(calls or (role == "assistant" and (request.get("function_call") or request.get("audio"))))
    if not has_other and (not content or (role == "assistant" and not extract_text(request))):
        return "its text is empty"
    if role == "tool" and not (isinstance(request.get("tool_call_id"), str) and request["tool_call_id"]):
        return "it does not say which tool call it answers"
    unknown = sorted(request.keys() - _API_FIELDS.get(role, _OTHER_FIELDS))
    return f"the API has no {', '.join(unknown)[:80]}" if unknown else None


def _find_calls_fault(calls: object) -> str | None:
    if not isinstance(calls, list) or not calls:
        return "its tool_calls are not a list of calls"
    ids = [call.get("id") if isinstance(call, dict) else None for call in calls]
    for number, call in enumerate(calls, 1):
        fault = find_call_fault(call)
        if fault is not None:
            return f"tool call {number}: {fault}"
        if not isinstance(ids[number - 1], str) or not ids[number - 1] or ids.count(ids[number - 1]) > 1:
            return f"tool call {number}: it has no id of its own"
        if call.get("type") not in ("function", "custom"):
            return f"tool call {number}: it has no type"
    return None


def _describe(source: Outgoing) -> str:
    fault = find_request_fault(source.message) if not source.is_reply else None
    return f"{source.label}: {fault}" if fault is not None else source.label


def _find_named(sent: Sequence[Message], error_text: str) -> Message | None:
    for match in _INDEX.finditer(error_text):
        if int(match[1]) < len(sent):
            return sent[int(match[1])]
    named = (message for message in sent if any(id in error_text for id in _list_call_ids(message)))
    return next(named, None)


def _list_call_ids(message: Message) -> Iterator[str]:
    calls = message.get("tool_calls")
    for holder, key in [
        (message, "tool_call_id"),
        *((call, "id") for call in (calls if isinstance(calls, list) else ())),
    ]:
        id = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(id, str) and len(id) > 3:  # a shorter id may occur in any text by chance
            yield id
