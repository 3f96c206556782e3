"""Put a streamed completion together, chunk by chunk, without losing a field.

A delta is merged field by field. Text is appended (content, refusal, a tool call's arguments, a vendor's reasoning). A
list item with an `index` is merged with the earlier item of that index; other items are added. A field that names a
thing or its type is set once. These rules also hold for fields that this code does not know, so such a field is
complete too. `_find_continued_item` handles servers that differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from convstore.messages.completion import (
    Completion,
    collect_other_fields,
    get_other_choice_fields,
    get_other_fields,
    read_body_error,
    read_choice_error,
    read_completion_facts,
    to_reply_message,
    to_text_or_none,
)
from convstore.messages.lenient_json import to_lenient_plain
from convstore.messages.message import Message, extract_text
from convstore.messages.plain_json import KeptText
from convstore.messages.storable_text import join_surrogates

# Servers send these once, or repeat the whole value; they never send them in pieces.
_FIELDS_SET_ONCE = frozenset({"role", "id", "type", "index", "call_id", "format", "signature"})
# Lists of content parts: a part continues the last one if it has the same type (Mistral's reasoning models).
_FIELDS_OF_PARTS = frozenset({"content", "thinking"})
_GROWING_PART_TYPES = frozenset({"text", "thinking"})


class _GrowingText:
    """A text in pieces, which are joined once at the end.

    If each piece were appended at once, the time would grow with the square of the length.
    """

    def __init__(self, piece: str) -> None:
        self.pieces = [piece]

    def __str__(self) -> str:
        return join_surrogates("".join(self.pieces))


@dataclass(slots=True)
class ChunkAccumulator:
    """The completion that results from the chunks so far.

    >>> reply = ChunkAccumulator()
    >>> reply.add({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]})
    'Hel'
    >>> reply.add({"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}]})
    'lo'
    >>> reply.to_completion().messages
    ({'role': 'assistant', 'content': 'Hello'},)
    """

    _deltas: dict[int, dict[str, Any]] = field(default_factory=dict)
    _finish_reasons: dict[int, str] = field(default_factory=dict)
    _facts: dict[str, Any] = field(default_factory=dict)
    _held_half: str = ""
    _error: dict[str, Any] | None = None
    _fields: dict[str, Any] = field(default_factory=dict)
    _choice_fields: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, chunk: object) -> str:
        """Merge a chunk and return the text that it adds to the first choice.

        A chunk may end in the middle of a character. The first half is held back until the second half or the end of
        the reply is received.

        Args:
            chunk: an openai object, or the same as a dict. Anything else adds nothing.
        """
        body = to_lenient_plain(chunk)
        return self.add_plain(body) if isinstance(body, dict) else ""

    def add_plain(self, body: dict[str, Any]) -> str:
        """Do what `add` does with a chunk that is plain JSON; it is not changed."""
        self._facts.update({key: value for key, value in read_completion_facts(body).items() if value is not None})
        if not self._finish_reasons:  # after the end of the reply, an error loses nothing
            self._error = self._error or read_body_error(body)
        self._fields = _merge_other_fields(self._fields, get_other_fields(body))
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
                    text += extract_text({"content": delta.get("content")})
            reason = to_text_or_none(choice.get("finish_reason"))
            if reason is not None:
                self._finish_reasons[index] = reason
            self._error = self._error or read_choice_error(choice)
            others = get_other_choice_fields(choice)
            if others:
                self._choice_fields[index] = _merge_other_fields(self._choice_fields.get(index, {}), others)
        return self._hold_back_half(text)

    def add_text(self, text: str) -> None:
        """Do what `add_plain` does with a chunk that differs from an earlier one in its whole text alone."""
        delta = self._deltas.setdefault(0, {})
        known = delta.get("content")
        if isinstance(known, _GrowingText):
            known.pieces.append(text)
        else:
            _merge_object(delta, {"content": text})

    def _hold_back_half(self, text: str) -> str:
        text = join_surrogates(self._held_half + text)
        self._held_half = ""
        if text and "\ud800" <= text[-1] <= "\udbff" and 0 not in self._finish_reasons:
            self._held_half = text[-1]
            text = text[:-1]
        return text

    @property
    def has_started(self) -> bool:
        """True if a part of the reply was received: text, reasoning or a tool call."""
        return any(value for delta in self._deltas.values() for key, value in delta.items() if key != "role")

    def to_chunk(self) -> dict[str, Any]:
        """Return everything added so far as one chunk.

        Another accumulator builds the same completion from such chunks.
        """
        return {
            **self._fields,
            **self._facts,
            "id": self._facts.get("response_id"),
            "choices": [
                {**self._choice_fields.get(index, {}), "index": index, "delta": _join_texts(delta)}
                for index, delta in self._deltas.items()
            ],
        }

    def to_completion(self) -> Completion:
        """Return the completion so far.

        Its `finish_reason` is None unless every choice ended.
        """
        indexes = sorted(self._deltas.keys() | self._finish_reasons.keys())
        has_ended = bool(indexes) and all(index in self._finish_reasons for index in indexes)
        messages = tuple(_build_message(self._deltas.get(index, {})) for index in indexes)
        reasons = [self._finish_reasons.get(index) for index in indexes]
        reason = reasons[0] if has_ended else None
        others = [self._choice_fields.get(index, {}) for index in indexes]
        fields = collect_other_fields(self._fields, others, reasons)
        return Completion(messages, reason, **self._facts, error=self._error, fields=fields)


def _merge_other_fields(known: Any, value: Any, *, in_pieces: bool = False) -> Any:
    """Merge a chunk's value of a field outside the message into the known value.

    Log probabilities are sent for each piece, and are added. Any other field is sent once; if it is sent again, the
    newer value replaces the old one.
    """
    if isinstance(value, dict):
        known = known if isinstance(known, dict) else {}
        merged = {
            key: _merge_other_fields(known.get(key), item, in_pieces=in_pieces or key == "logprobs")
            for key, item in value.items()
        }
        return {**known, **merged}
    if in_pieces and isinstance(value, list):
        if not isinstance(known, list):
            return list(value)  # a copy, because it grows and the chunk must not change
        known.extend(value)
        return known
    return known if value is None else value


def _merge_object(into: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        known = into.get(key)
        if value is None:
            into.setdefault(key, None)
        elif known is None or known == "":
            into[key] = _start_value(key, value)
        elif isinstance(value, dict) and isinstance(known, dict):
            _merge_object(known, value)
        elif isinstance(value, list) and isinstance(known, list):
            _merge_list(key, known, value)
        elif isinstance(value, str) and isinstance(known, _GrowingText):
            # Some servers repeat a function's whole name with every fragment of its arguments.
            if key != "name" or known.pieces != [value]:
                known.pieces.append(value)
        elif key in _FIELDS_OF_PARTS and isinstance(value, (str, list)) and isinstance(known, (_GrowingText, list)):
            _merge_text_and_parts(key, into, known, value)
        elif value != "" and key not in _FIELDS_SET_ONCE:
            into[key] = value


def _start_value(key: str, value: Any) -> Any:
    if isinstance(value, str) and value and key not in _FIELDS_SET_ONCE and not isinstance(value, KeptText):
        return _GrowingText(value)
    if isinstance(value, dict):
        grown: dict[str, Any] = {}
        _merge_object(grown, value)
        return grown
    if isinstance(value, list):
        items: list[Any] = []
        _merge_list(key, items, value)
        return items
    return value


def _merge_text_and_parts(
    key: str, into: dict[str, Any], known: _GrowingText | list[Any], value: str | list[Any]
) -> None:
    # Mistral's reasoning models send their thinking as parts, and the answer after it as plain text.
    if isinstance(known, _GrowingText):
        known = [{"type": "text", "text": known}]
    if isinstance(value, str):
        value = [{"type": "text", "text": value}] if value else []
    _merge_list(key, known, value)
    into[key] = known


def _merge_list(key: str, into: list[Any], items: list[Any]) -> None:
    for item in items:
        known = _find_continued_item(key, into, item)
        if known is None:
            into.append(_start_value("", item))
        else:
            _merge_object(known, item)


def _find_continued_item(key: str, items: list[Any], item: Any) -> dict[str, Any] | None:
    """Return the item of `items` that `item` continues, or None if it is a new one."""
    if not isinstance(item, dict) or not items:
        return None
    if key in _FIELDS_OF_PARTS:
        kind = item.get("type")
        known = _find_last(items[-1:], "type", kind) if kind in _GROWING_PART_TYPES else None
        return None if known is not None and _is_signed_by_another(known, item) else known
    index = item.get("index")
    is_numbered = isinstance(index, int)
    if key != "tool_calls":
        return _find_last_of_kind(items, item) if is_numbered else None
    # Gemini's servers, and gateways to them, give all parallel calls the index 0, or no index. So an item with a name
    # and another id is a new call. An id alone is not enough, because some servers invent one for every fragment.
    is_named = any(isinstance(part, dict) and part.get("name") for part in item.values())
    if is_numbered:
        known = _find_last(items, "index", index)
        ids = [part["id"] for part in (known, item) if part and part.get("id")]
        return None if is_named and len(ids) == 2 and ids[0] != ids[1] else known
    if item.get("id"):
        return _find_last(items, "id", item["id"])
    return None if is_named or not isinstance(items[-1], dict) else items[-1]


def _find_last(items: list[Any], key: str, value: Any) -> dict[str, Any] | None:
    for item in reversed(items):
        if isinstance(item, dict) and item.get(key) == value:
            return item
    return None


def _find_last_of_kind(items: list[Any], item: dict[str, Any]) -> dict[str, Any] | None:
    # OpenRouter gives all reasoning details of an answer the index 0, although they may be different items: a text, its
    # signature, a summary.
    for known in reversed(items):
        if isinstance(known, dict) and known.get("index") == item.get("index"):
            pairs = [(known.get(key), item.get(key)) for key in ("type", "id")]
            if all(old is None or new is None or old == new for old, new in pairs):
                return None if _is_signed_by_another(known, item) else known
    return None


def _is_signed_by_another(known: dict[str, Any], item: dict[str, Any]) -> bool:
    """Return True if a signature ended `known`, so that `item` begins a new thought."""
    signature = known.get("signature")
    is_more = item.get("signature") or item.get("text") or item.get("thinking")
    return bool(signature) and bool(is_more) and item.get("signature") != signature


def _build_message(delta: dict[str, Any]) -> Message:
    message = to_reply_message(_join_texts(delta))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            call.pop("index", None)  # it belongs to the fragments, not to the message
    return message


def _join_texts(value: Any) -> Any:
    if isinstance(value, _GrowingText):
        return str(value)
    if isinstance(value, dict):
        return {key: _join_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_join_texts(item) for item in value]
    return value
