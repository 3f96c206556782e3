"""Read a model's answer as a plain value, the same whether it was streamed or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from convstore.messages.lenient_json import to_lenient_plain
from convstore.messages.message import Message

_MAX_TOKEN_COUNT = 2**63 - 1  # what a database's integer can hold


class Usage(dict[str, Any]):
    """The token counts of one call, as the API reported them.

    The usual counts are attributes too: None if the report lacks them.

    >>> Usage({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}).prompt_tokens
    9
    """

    @property
    def prompt_tokens(self) -> int | None:
        return _to_token_count(self.get("prompt_tokens"))

    @property
    def completion_tokens(self) -> int | None:
        return _to_token_count(self.get("completion_tokens"))

    @property
    def total_tokens(self) -> int | None:
        return _to_token_count(self.get("total_tokens"))

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that the provider had cached."""
        return self._get_detail("prompt_tokens_details", "cached_tokens")

    @property
    def reasoning_tokens(self) -> int | None:
        """Tokens of the completion that the model used for reasoning."""
        return self._get_detail("completion_tokens_details", "reasoning_tokens")

    def _get_detail(self, group: str, key: str) -> int | None:
        details = self.get(group)
        return _to_token_count(details.get(key)) if isinstance(details, dict) else None


def _to_token_count(value: object) -> int | None:
    # A number that is too large for a database's integer is not used as a count; the stored report still holds it.
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_TOKEN_COUNT:
        return None
    return value


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer of a model: one message for each choice, and facts about the call."""

    messages: tuple[Message, ...]
    """One message for each choice, in the order of their indexes."""
    finish_reason: str | None
    """Why the first choice ended; None: a choice did not end, so the messages are partial."""
    response_id: str | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    usage: Usage | None = None
    error: dict[str, Any] | None = None
    """The error that the provider sent in the answer: `type`, `message` and perhaps `code`."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The other fields of the answer, unchanged. `choices` holds the other fields of each choice, if there are any."""


REDACTED_MEANWHILE = {"type": "Redacted", "message": "a message that the model read was redacted meanwhile"}
"""The error of a call that must not store what the model wrote."""


def make_facts(completion: Completion) -> Completion:
    """Return a completion without anything that the model wrote."""
    return replace(completion, messages=(), fields={})


class NotACompletion(Exception):
    """The provider's answer is not a completion."""


def read_completion(value: object) -> Completion:
    """Return the completion that a provider's answer holds.

    Args:
        value: what `chat.completions.create` returned: an openai object, or the same as a dict.

    Raises:
        NotACompletion: the answer is not a completion, or holds no message.
    """
    if isinstance(value, (str, bytes)):  # openai returns a body as text if its content type is not JSON
        raise NotACompletion("the provider's answer is not JSON")
    body = to_lenient_plain(value)
    if not isinstance(body, dict):
        raise NotACompletion("the provider's answer is not a completion")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise NotACompletion(find_error_text(body) or "the provider's answer holds no choices")
    if not all(isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices):
        raise NotACompletion("a choice of the provider's answer holds no message")
    choices.sort(key=lambda choice: _to_token_count(choice.get("index")) or 0)
    messages = tuple(to_reply_message(choice["message"]) for choice in choices)
    reasons = [to_text_or_none(choice.get("finish_reason")) for choice in choices]
    fields = collect_other_fields(body, [get_other_choice_fields(choice) for choice in choices], reasons)
    error = next(filter(None, map(read_choice_error, choices)), None) or read_body_error(body)
    return Completion(
        messages,
        reasons[0] if all(reasons) else None,
        **read_completion_facts(body),
        error=error,
        fields=fields,
    )


# Stored in columns of their own, or the same in every answer.
_FIELDS_WITH_COLUMNS = frozenset({"id", "object", "model", "choices", "usage", "system_fingerprint"})
# OpenAI adds random text, so that a listener on the network cannot tell the lengths of the pieces.
_NOISE_FIELDS = frozenset({"obfuscation"})
_CHOICE_FIELDS = frozenset({"index", "message", "delta", "finish_reason"})


def get_other_fields(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an answer, or of a chunk, that have no column of their own."""
    left_out = _FIELDS_WITH_COLUMNS | _NOISE_FIELDS
    return {key: value for key, value in body.items() if key not in left_out and value is not None}


def get_other_choice_fields(choice: dict[str, Any]) -> dict[str, Any]:
    """Return the other fields of a choice, such as `logprobs`."""
    return {key: value for key, value in choice.items() if key not in _CHOICE_FIELDS and value is not None}


def collect_other_fields(
    body: dict[str, Any], of_choices: list[dict[str, Any]], reasons: list[str | None]
) -> dict[str, Any]:
    """Return the other fields of an answer, with those of its choices under `choices`.

    Args:
        reasons: why each choice ended. The turn has the first one; another one is kept with its choice.
    """
    fields = get_other_fields(body)
    of_choices = [
        {**others, "finish_reason": reason} if reason not in (None, reasons[0]) else others
        for others, reason in zip(of_choices, reasons, strict=True)
    ]
    return {**fields, "choices": of_choices} if any(of_choices) else fields


def read_choice_error(choice: dict[str, Any]) -> dict[str, Any] | None:
    """Return the error with which a choice ended, or None.

    OpenRouter ends a choice with `finish_reason: "error"`, and most often with an `error` object.
    """
    error = choice.get("error")
    if isinstance(error, dict) and error:
        facts = {"type": "ProviderError", "message": find_error_text(choice) or "the provider ended the reply"}
        return facts | ({"code": error["code"]} if isinstance(error.get("code"), (str, int)) else {})
    if choice.get("finish_reason") == "error":
        return {"type": "ProviderError", "message": 'the provider ended the reply with finish_reason "error"'}
    return None


def read_body_error(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the error that a body or a chunk holds, or None."""
    text = find_error_text(body)
    if text is None:
        return None
    error = body.get("error")
    code = (error if isinstance(error, dict) else body).get("code")
    return {"type": "ProviderError", "message": text} | ({"code": code} if isinstance(code, (str, int)) else {})


def to_reply_message(body: dict[str, Any]) -> Message:
    """Return the message of a reply, with the role added if the server left it out."""
    message = {"role": "assistant", **body}
    if not isinstance(message["role"], str) or not message["role"]:
        message["role"] = "assistant"
    return message


def find_error_text(body: dict[str, Any]) -> str | None:
    """Return the text of the error in a body, or None if there is no error.

    Some providers send an error with status 200: an `error` object, or a flat form (`"object": "error"`).
    """
    error = body.get("error")
    if isinstance(error, dict):
        error = error.get("message") or str(error)
    elif not error and body.get("object") == "error":
        error = body.get("message") or str(body)
    return error if isinstance(error, str) and error else None


def read_completion_facts(body: dict[str, Any]) -> dict[str, Any]:
    """Return the facts about a completion, as keyword arguments of `Completion`.

    Args:
        body: a response's body, or one chunk of a stream.
    """
    usage = body.get("usage")
    return {
        "response_id": to_text_or_none(body.get("id")),
        "model": to_text_or_none(body.get("model")),
        "system_fingerprint": to_text_or_none(body.get("system_fingerprint")),
        "usage": Usage(usage) if isinstance(usage, dict) and usage else None,
    }


def to_text_or_none(value: object) -> str | None:
    """Return the value if it is a text that is not empty, else None."""
    return value if isinstance(value, str) and value else None
