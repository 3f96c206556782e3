"""Puts a streamed completion together, chunk by chunk, losing nothing. Pure.

A delta is merged field by field. Text grows (content, refusal, a tool call's arguments, a vendor's reasoning); items of
a list that carry an `index` are merged with the item of that index, others are added; what names or types a thing is
set once. So a field that nobody has heard of arrives whole too. `_counterpart` knows the servers that do it otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from convstore.messages.codec import Message, rejoin, text_of, to_plain
from convstore.messages.completion import Completion, facts, reply_message, text_or_none

# Sent once, or repeated whole by some servers; never in pieces.
_SET_ONCE = frozenset({"role", "id", "type", "index", "call_id", "format", "signature"})
# Lists of content parts: a part goes on where the last one of its type ended (Mistral's reasoning models).
_PARTS = frozenset({"content", "thinking"})
_GROWING_PARTS = frozenset({"text", "thinking"})


class _Text:
    """A growing text: pieces joined once at the end, so that a long reply does not cost the square of its length."""

    def __init__(self, piece: str) -> None:
        self.pieces = [piece]

    def __str__(self) -> str:
        return rejoin("".join(self.pieces))


@dataclass(slots=True)
class Accumulator:
    """The completion so far.

    >>> reply = Accumulator()
    >>> reply.add({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]})
    'Hel'
    >>> reply.add({"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}]})
    'lo'
    >>> reply.completion().messages
    ({'role': 'assistant', 'content': 'Hello'},)
    """

    _deltas: dict[int, dict[str, Any]] = field(default_factory=dict)
    _finish_reasons: dict[int, str] = field(default_factory=dict)
    _facts: dict[str, Any] = field(default_factory=dict)
    _half: str = ""

    def add(self, chunk: object) -> str:
        """Merge a chunk (an openai object or the same as a dict) and return the text it adds to the first choice.

        The first half of a character that was cut in two is held back until the second comes, or the reply's end.
        """
        body = to_plain(chunk)
        if not isinstance(body, dict):
            return ""
        self._facts.update({key: value for key, value in facts(body).items() if value is not None})
        text = ""
        choices = body.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            delta = choice.get("delta")
            if isinstance(delta, dict):
                _merge_object(self._deltas.setdefault(index, {}), delta)
                if index == 0:
                    text += text_of({"content": delta.get("content")})
            reason = text_or_none(choice.get("finish_reason"))
            if reason is not None:
                self._finish_reasons[index] = reason
        return self._whole_characters(text)

    def _whole_characters(self, text: str) -> str:
        text = rejoin(self._half + text)
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff" and 0 not in self._finish_reasons:
            self._half = text[-1]
            text = text[:-1]
        return text

    @property
    def started(self) -> bool:
        """Whether anything of the reply itself has come: text, reasoning, or a tool call."""
        return any(value for delta in self._deltas.values() for key, value in delta.items() if key != "role")

    def fragment(self) -> dict[str, Any]:
        """Return what has been added as one chunk: fragments added to another accumulator make the same completion."""
        return {
            **self._facts,
            "id": self._facts.get("response_id"),
            "choices": [{"index": index, "delta": _finished(delta)} for index, delta in self._deltas.items()],
        }

    def completion(self) -> Completion:
        """Return the completion as far as it came; its `finish_reason` is None unless every choice has ended."""
        indexes = sorted(self._deltas.keys() | self._finish_reasons.keys())
        ended = bool(indexes) and all(index in self._finish_reasons for index in indexes)
        messages = tuple(_message(self._deltas.get(index, {})) for index in indexes)
        reason = self._finish_reasons.get(indexes[0]) if ended else None
        return Completion(messages, reason, **self._facts)


def _merge_object(into: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        known = into.get(key)
        if value is None:
            into.setdefault(key, None)
        elif known is None or known == "":
            into[key] = _begin(key, value)
        elif isinstance(value, dict) and isinstance(known, dict):
            _merge_object(known, value)
        elif isinstance(value, list) and isinstance(known, list):
            _merge_list(key, known, value)
        elif isinstance(value, str) and isinstance(known, _Text):
            # Some servers repeat a function's whole name with every fragment of its arguments.
            if key != "name" or known.pieces != [value]:
                known.pieces.append(value)
        elif key in _PARTS and isinstance(value, (str, list)) and isinstance(known, (_Text, list)):
            _merge_text_and_parts(key, into, known, value)
        elif value != "" and key not in _SET_ONCE:
            into[key] = value


def _begin(key: str, value: Any) -> Any:
    if isinstance(value, str) and value and key not in _SET_ONCE:
        return _Text(value)
    if isinstance(value, dict):
        grown: dict[str, Any] = {}
        _merge_object(grown, value)
        return grown
    if isinstance(value, list):
        items: list[Any] = []
        _merge_list(key, items, value)
        return items
    return value


def _merge_text_and_parts(key: str, into: dict[str, Any], known: _Text | list[Any], value: str | list[Any]) -> None:
    """Mistral's reasoning models send their thinking as parts, and the answer after it as plain text."""
    if isinstance(known, _Text):
        known = [{"type": "text", "text": known}]
    if isinstance(value, str):
        value = [{"type": "text", "text": value}] if value else []
    _merge_list(key, known, value)
    into[key] = known


def _merge_list(key: str, into: list[Any], items: list[Any]) -> None:
    for item in items:
        known = _counterpart(key, into, item)
        if known is None:
            into.append(_begin("", item))
        else:
            _merge_object(known, item)


def _counterpart(key: str, items: list[Any], item: Any) -> dict[str, Any] | None:
    """Return the one of `items` that `item` continues, or None: it is a new one."""
    if not isinstance(item, dict) or not items:
        return None
    if key in _PARTS:
        kind = item.get("type")
        return _last(items[-1:], "type", kind) if kind in _GROWING_PARTS else None
    index = item.get("index")
    numbered = isinstance(index, int)
    if key != "tool_calls":
        return _last(items, "index", index) if numbered else None
    # Gemini's servers (and what stands before them) give all parallel calls the index 0, or none. Another call begins
    # where there is a name and another id; some servers make up an id for every fragment, but those have no name.
    named = any(isinstance(part, dict) and part.get("name") for part in item.values())
    if numbered:
        known = _last(items, "index", index)
        ids = {known["id"] if known and known.get("id") else None, item.get("id") or None} - {None}
        return None if named and len(ids) > 1 else known
    if item.get("id"):
        return _last(items, "id", item["id"])
    return None if named or not isinstance(items[-1], dict) else items[-1]


def _last(items: list[Any], key: str, value: Any) -> dict[str, Any] | None:
    for item in reversed(items):
        if isinstance(item, dict) and item.get(key) == value:
            return item
    return None


def _message(delta: dict[str, Any]) -> Message:
    message = reply_message(_finished(delta))
    for call in message.get("tool_calls") or ():
        if isinstance(call, dict):
            call.pop("index", None)  # numbers the fragments; not a field of the message
    return message


def _finished(value: Any) -> Any:
    if isinstance(value, _Text):
        return str(value)
    if isinstance(value, dict):
        return {key: _finished(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finished(item) for item in value]
    return value
