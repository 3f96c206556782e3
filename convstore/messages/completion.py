"""What a model answered, as plain values: the same whether it came whole or as a stream. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convstore.errors import InvalidMessage
from convstore.messages.codec import Message, to_input, to_plain

_NO_COUNT = 2**63


class Usage(dict[str, Any]):
    """The token counts of one call, exactly as the API reported them, with the usual ones as attributes.

    >>> Usage({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}).prompt_tokens
    9
    """

    @property
    def prompt_tokens(self) -> int | None:
        return _count(self.get("prompt_tokens"))

    @property
    def completion_tokens(self) -> int | None:
        return _count(self.get("completion_tokens"))

    @property
    def total_tokens(self) -> int | None:
        return _count(self.get("total_tokens"))

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that the provider had cached."""
        return self._detail("prompt_tokens_details", "cached_tokens")

    @property
    def reasoning_tokens(self) -> int | None:
        """Tokens of the completion that were spent on reasoning."""
        return self._detail("completion_tokens_details", "reasoning_tokens")

    def _detail(self, group: str, key: str) -> int | None:
        details = self.get(group)
        return _count(details.get(key)) if isinstance(details, dict) else None


def _count(value: object) -> int | None:
    # A number that no database's integer holds is no count; the report keeps it.
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _NO_COUNT:
        return None
    return value


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a model: its messages (one for each choice, by index) and the facts about it."""

    messages: tuple[Message, ...]
    finish_reason: str | None
    """Why the first choice ended. None: it, or another, did not, and the messages are partial."""
    response_id: str | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    usage: Usage | None = None


class NotACompletion(Exception):
    """The provider answered something that is not a completion."""


def read_completion(value: object) -> Completion:
    """Return the completion that `chat.completions.create` gave (an openai object, or the same as a dict).

    Raises:
        NotACompletion: it is something else, or holds no message.
    """
    if isinstance(value, (str, bytes)):  # openai hands on a body whose content type is not JSON as text
        raise NotACompletion("the provider's answer is not JSON")
    try:
        body = to_plain(value)
    except ValueError as error:
        raise NotACompletion(f"the provider's answer is not a completion: {error}") from None
    if not isinstance(body, dict):
        raise NotACompletion("the provider's answer is not a completion")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        error_text = error_message(body)
        raise NotACompletion(error_text or "the provider's answer holds no choices")
    if not all(isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices):
        raise NotACompletion("a choice of the provider's answer holds no message")
    choices.sort(key=lambda choice: _count(choice.get("index")) or 0)
    messages = tuple(reply_message(choice["message"]) for choice in choices)
    reasons = [text_or_none(choice.get("finish_reason")) for choice in choices]
    return Completion(messages, reasons[0] if all(reasons) else None, **facts(body))


def reply_message(body: dict[str, Any]) -> Message:
    """Return a reply's message; some servers leave its role out, or null."""
    message = {"role": "assistant", **body}
    if not isinstance(message["role"], str) or not message["role"]:
        message["role"] = "assistant"
    return message


def error_message(body: dict[str, Any]) -> str | None:
    """Return the text of the error object that some providers answer under status 200, or None."""
    error = body.get("error")
    if isinstance(error, dict):
        error = error.get("message") or str(error)
    return error if isinstance(error, str) and error else None


def facts(body: dict[str, Any]) -> dict[str, Any]:
    """Return what a response body, or a chunk, says of the whole completion, as `Completion`'s arguments."""
    usage = body.get("usage")
    return {
        "response_id": text_or_none(body.get("id")),
        "model": text_or_none(body.get("model")),
        "system_fingerprint": text_or_none(body.get("system_fingerprint")),
        "usage": Usage(usage) if isinstance(usage, dict) and usage else None,
    }


def text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def to_append(items: Sequence[object]) -> tuple[list[Message], Completion | None]:
    """Return the messages that a caller means by what it hands to `append`, and the completion if it is one.

    Raises:
        InvalidMessage: one of them is no message, or a completion is not by itself.
    """
    if not items:
        raise InvalidMessage("there is nothing to append")
    new: list[Message] = []
    for item in items:
        completion = _given_completion(item)
        if completion is not None:
            if len(items) > 1:
                raise InvalidMessage("append a completion by itself: its facts belong to its own message")
            return [completion.messages[0]], completion
        new.extend(to_input(item))
    return new, None


def _given_completion(value: object) -> Completion | None:
    if isinstance(value, Mapping):
        if "role" in value or "choices" not in value:
            return None
    elif not hasattr(value, "choices"):
        return None
    try:
        return read_completion(value)
    except NotACompletion as error:
        raise InvalidMessage(str(error)) from None
