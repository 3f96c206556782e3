"""Read the text and the facts of an error that a call raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convstore.messages.completion import NotACompletion
from convstore.provider.openai_client import NO_API_KEY

_MAX_ERROR_CHARACTERS = 2000


def describe_error(error: BaseException, client: Any) -> dict[str, Any]:
    """Return what a turn stores about an error.

    The API key is replaced by `[key]`, in case the provider put it into its text.

    Args:
        error: what the call raised.
        client: the client that made the call.

    Returns:
        `type` and `message`; `status` and `code` if the error has them.
    """
    facts: dict[str, Any] = {"type": type(error).__name__, "message": read_error_text(error)}
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        facts["status"] = status
    code = getattr(error, "code", None)
    if isinstance(code, (str, int)):
        facts["code"] = code
    key = getattr(client, "api_key", None)
    if isinstance(key, str) and key and key != NO_API_KEY:
        facts = {name: _hide_key(key, value) for name, value in facts.items()}
    return facts


def read_error_text(error: BaseException) -> str:
    """Return an error's text on one line, at most 2,000 characters.

    It is the `message` of the provider's answer, else the text of the exception, with the cause of a failed connection.
    """
    body = getattr(error, "body", None)
    text = _describe_redirect(error)
    if not text and isinstance(body, Mapping):
        inner = body.get("error", body)
        inner = inner.get("message") if isinstance(inner, Mapping) else inner
        text = inner if isinstance(inner, str) else ""
    elif isinstance(body, str) and not hasattr(error, "status_code"):  # an event of a stream, such as {"error": "…"}
        text = body
    if not text and isinstance(error, ValueError) and not isinstance(error, NotACompletion):
        text = f"the provider's answer is not JSON ({error})"
    text = text or str(error) or type(error).__name__
    cause = error.__cause__
    if cause is not None and type(error).__name__ == "APIConnectionError" and str(cause):
        text = f"{text.rstrip('.')}: {cause}"
    return " ".join(text.split())[:_MAX_ERROR_CHARACTERS]


def _describe_redirect(error: BaseException) -> str:
    """Return the text for an answer that sends the client elsewhere, or ""."""
    response = getattr(error, "response", None)
    location = response.headers.get("location") if response is not None and response.has_redirect_location else None
    if location is None:
        return ""
    scheme, separator, rest = str(location).partition("://")
    address = f"{scheme}{separator}{rest.rpartition('@')[2] if separator else rest}"  # without a password in it
    return f"the server redirects to {address}; set the base URL to the final address"


def _hide_key(key: str, value: Any) -> Any:
    return value.replace(key, "[key]") if isinstance(value, str) else value
