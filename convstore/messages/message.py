"""Define a message and read its text.

A message has three forms: the *exact* form (`Message`, a plain dict that equals the message of the caller or the
model), the *stored* form (`codec`) and the *request* form (`request_form`).
"""

from __future__ import annotations

from typing import Any, TypeAlias

from convstore.errors import InvalidMessage
from convstore.messages.plain_json import to_plain

Message: TypeAlias = dict[str, Any]
"""A Chat Completions message in its exact form: a JSON object with a `role`."""


def to_message(value: object) -> Message:
    """Return the exact form of a message.

    Args:
        value: a mapping, or an object of the openai package. Fields of an object that were not set are left out.

    Raises:
        InvalidMessage: the value is not a JSON object with a string `role`.
    """
    if type(value) is dict and len(value) == 2:  # most messages: the rest gives the same
        role, content = value.get("role"), value.get("content")
        if type(role) is type(content) is str and role and role.isascii() and content.isascii():
            return value.copy()
    plain = to_plain(value)
    if not isinstance(plain, dict):
        raise InvalidMessage(f"a message must be a JSON object with a role, not {type(value).__name__}")
    role = plain.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidMessage(f"a message must have a role (system, user, assistant …); this one has {role!r}")
    return plain


def extract_text(message: Message) -> str:
    """Return the readable text of a message, or "" if it has none.

    It is the content, or the joined text parts of the content; if they are empty, it is the refusal.
    """
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text", part.get("refusal")) for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if isinstance(content, str) and content:
        return content
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def is_replayable(partial: Message) -> bool:
    """Return True if a partial reply may be sent to a model again.

    It may if it has text and no tool call or function call, because a call may be cut in the middle.
    """
    return bool(extract_text(partial)) and not partial.get("tool_calls") and not partial.get("function_call")
