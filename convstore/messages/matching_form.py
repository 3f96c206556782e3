"""Compare lists of messages that clients send with stored paths.

A client keeps a conversation in a form of its own: it loses fields, reorders arguments, splits texts into parts. The
matching form of a message has what it says, and nothing else: role, text or parts, tool calls, the id of a tool's call.
Each digest is made of the one before it, so that one digest names a whole beginning. System and developer messages are
compared apart, because clients change them from one request to the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from convstore.messages.message import Message

CONTEXT_ROLES = frozenset({"system", "developer"})
LEAST_EXCHANGES = 2
"""The number of exchanges by which a list without its beginning is recognised."""
_DIGEST_BYTES = 16
_COMPARED_FIELDS = frozenset({"role", "content", "tool_calls", "tool_call_id", "function_call"})

_to_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_quote = json.encoder.encode_basestring_ascii


@dataclass(frozen=True, slots=True)
class ListedPath:
    """The messages of a request, with what is needed to find them among stored ones."""

    context: tuple[Message, ...]
    """The system and developer messages at the beginning."""
    messages: tuple[Message, ...]
    """All others; system and developer messages among them are not compared."""
    digests: tuple[bytes, ...]
    """Of the beginning that ends with each message."""

    @property
    def context_digest(self) -> bytes:
        """The digest of the system and developer messages at the beginning."""
        return digest_context(self.context)

    @property
    def digest(self) -> bytes:
        """The digest of all messages; empty if there are none."""
        return self.digests[-1] if self.digests else b""

    def list_reply_places(self) -> list[int]:
        """Return the places of the model's messages, last first: a stored path may end with one of them."""
        return [place for place in reversed(range(len(self.messages))) if self.messages[place]["role"] == "assistant"]

    def begins_with_user(self) -> bool:
        """Return True if the first message is a user's: then the list may be the end of a path."""
        return bool(self.messages) and self.messages[0]["role"] == "user"


def list_path(messages: Sequence[Message]) -> ListedPath:
    """Return the messages of a request, with the digests of its beginnings."""
    count = next(
        (place for place, message in enumerate(messages) if message["role"] not in CONTEXT_ROLES), len(messages)
    )
    rest, digests = tuple(messages[count:]), []
    digest = b""
    for message in rest:
        digest = add_to_digest(digest, message)
        digests.append(digest)
    return ListedPath(tuple(messages[:count]), rest, tuple(digests))


def add_to_digest(before: bytes, message: Message) -> bytes:
    """Return the digest of a beginning with one more message; of a system or developer message nothing is added.

    Args:
        before: the digest of the messages before it; empty: there are none.
    """
    if message["role"] in CONTEXT_ROLES:
        return before
    return blake2b(before + make_matching_form(message).encode(), digest_size=_DIGEST_BYTES).digest()


def digest_context(messages: Sequence[Message]) -> bytes:
    """Return the digest of system and developer messages; empty if there are none."""
    digest = b""
    for message in messages:
        digest = blake2b(digest + make_matching_form(message).encode(), digest_size=_DIGEST_BYTES).digest()
    return digest


def digest_addition(conversation: str, messages: Sequence[Message]) -> bytes:
    """Return the digest of messages that are added to a conversation, to recognise a request that is sent again.

    It is never that of a list: a list does not begin with the id of a conversation.
    """
    digest = blake2b(b"added to " + conversation.encode(), digest_size=_DIGEST_BYTES).digest()
    for message in messages:
        digest = blake2b(digest + make_matching_form(message).encode(), digest_size=_DIGEST_BYTES).digest()
    return digest


def digest_last_exchanges(messages: Sequence[Message]) -> bytes | None:
    """Return the digest of the last two exchanges of a path; None if it has fewer, or is not known to have them.

    An exchange begins with a user's message that does not follow another one.

    Args:
        messages: the end of the path.
    """
    compared = [message for message in messages if message["role"] not in CONTEXT_ROLES]
    begins = list(_list_exchange_places(compared))
    if len(begins) < LEAST_EXCHANGES:
        return None
    digest = b""
    for message in compared[begins[-LEAST_EXCHANGES] :]:
        digest = add_to_digest(digest, message)
    return digest


def count_exchanges(messages: Sequence[Message]) -> int:
    """Return the number of exchanges: of places at which a user begins to speak."""
    return sum(1 for _ in _list_exchange_places([one for one in messages if one["role"] not in CONTEXT_ROLES]))


def _list_exchange_places(compared: Sequence[Message]) -> Iterator[int]:
    for place, message in enumerate(compared):
        if message["role"] == "user" and (place == 0 or compared[place - 1]["role"] != "user"):
            yield place


def make_matching_form(message: Message) -> str:
    """Return what a message says, as JSON: two messages that say the same have the same form.

    >>> make_matching_form({"role": "user", "content": [{"type": "text", "text": "Hi"}]})
    '["user","Hi"]'
    """
    role, content = message["role"], message.get("content")
    if isinstance(content, str) and len(message) == 2 and role != "function":
        return f"[{_quote(str(role))},{_quote(content)}]"
    form: list[Any] = [str(role), _simplify_content(content)]
    calls = [_simplify_call(call) for call in _list_calls(message)]
    answered = message.get("name") if role == "function" else message.get("tool_call_id")
    if calls or answered is not None:
        form += [calls, answered]
    return _to_canonical(form)


def list_other_fields(message: Message) -> dict[str, Any]:
    """Return what a message has besides its matching form; empty values say nothing.

    >>> list_other_fields({"role": "user", "content": "Hi", "name": "ann", "refusal": None})
    {'name': 'ann'}
    """
    if len(message) == 2 and isinstance(message.get("content"), str):
        return {}
    found = {name: value for name, value in message.items() if name not in _COMPARED_FIELDS and value}
    content = message.get("content")
    if isinstance(content, list):
        marks = [
            {name: value for name, value in part.items() if name not in ("type", "text")}
            for part in content
            if isinstance(part, dict) and part.get("type") == "text"
        ]
        if any(marks):
            found["content"] = marks
    return found


def _simplify_content(content: Any) -> Any:
    if not content:
        return ""
    if not isinstance(content, list):
        return content
    parts = [_simplify_part(part) for part in content]
    return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else parts


def _simplify_part(part: Any) -> Any:
    """Return the text of a part that is one, else the part: clients add marks for caches to texts."""
    is_text = isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    return part["text"] if is_text else part


def _list_calls(message: Message) -> list[Any]:
    calls = message.get("tool_calls")
    found = list(calls) if isinstance(calls, list) else []
    if message.get("function_call"):  # the older form of a single call
        found.append({"function": message["function_call"]})
    return found


def _simplify_call(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    function = call.get("function")
    if not isinstance(function, dict):
        return call
    return [call.get("id"), function.get("name"), _parse_arguments(function.get("arguments"))]


def _parse_arguments(arguments: Any) -> Any:
    """Return the arguments of a call as JSON values; a text that is not JSON as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return {"json": json.loads(arguments)}
    except (ValueError, RecursionError):
        return arguments
