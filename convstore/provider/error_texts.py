"""Read the text and the facts of an error that a call raised."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from convstore.messages.completion import NotACompletion
from convstore.provider.openai_client import NO_API_KEY
from convstore.provider.raw_answer import find_url_source, is_made_client

_MAX_ERROR_CHARACTERS = 2000
_VERSION_IN_PATH = re.compile(r"/v\d")
_ERROR_NUMBER = re.compile(r"^\[Errno -?\d+\] ")


def has_version(base_url: str) -> bool:
    """Return True if the path of a base URL names a version of the API, as `/v1` does."""
    return _VERSION_IN_PATH.search(urlsplit(base_url).path) is not None


def describe_error(error: BaseException, client: Any) -> dict[str, Any]:
    """Return what a turn stores about an error.

    The API key is replaced by `[key]`, in case the provider put it into its text.

    Args:
        error: what the call raised.
        client: the client that made the call.

    Returns:
        `type` and `message`; `status` and `code` if the error has them; `server`, the base URL; `advice`, what to do
        next, if the error is a common one.
    """
    facts: dict[str, Any] = {"type": type(error).__name__, "message": read_error_text(error)}
    server = _find_server(client)
    if server:
        facts["server"] = server
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        facts["status"] = status
    code = getattr(error, "code", None)
    if isinstance(code, (str, int)):
        facts["code"] = code
    advice = _find_advice(error, facts, client)
    if advice:
        facts["advice"] = advice
    return hide_key(facts, client)


def hide_key(facts: dict[str, Any], client: Any) -> dict[str, Any]:
    """Return facts about an error with `[key]` instead of the API key of a client."""
    key = _get_key(client)
    return {name: _hide_key(key, value) for name, value in facts.items()} if key else facts


def hide_key_in_body(body: bytes, client: Any) -> bytes:
    """Return the body of an error with `[key]` instead of the API key of a client."""
    key = _get_key(client)
    return body.replace(key.encode(), b"[key]") if key else body


def _get_key(client: Any) -> str:
    """Return the API key of a client; empty: it has none that is a secret."""
    key = getattr(client, "api_key", None)
    return key if isinstance(key, str) and key != NO_API_KEY else ""


def format_failure(facts: Mapping[str, Any]) -> str:
    """Return what `describe_error` found as one sentence: status, type, server, message, advice."""
    if facts.get("type") == "APIConnectionError" and "server" in facts:
        message = str(facts.get("message", "")).removeprefix("Connection error: ")
        sentence = f"the connection to {facts['server']} failed: {message}".rstrip(": .")
        return f"{sentence}; {facts['advice']}" if "advice" in facts else sentence
    status = f"{facts['status']} " if "status" in facts else ""
    server = f" from {facts['server']}" if "server" in facts else ""
    sentence = f"{status}{facts.get('type', 'error')}{server}: {facts.get('message', '')}".rstrip(": .")
    return f"{sentence}; {facts['advice']}" if "advice" in facts else sentence


def is_model_unknown(facts: Mapping[str, Any]) -> bool:
    """Return True if the server says that it does not have the model."""
    return facts.get("status") == 404 and (
        facts.get("code") == "model_not_found" or re.search(r"\bmodel\b", str(facts.get("message", ""))) is not None
    )


def _find_server(client: Any) -> str:
    """Return the base URL of a client without a password or a query, or ""."""
    url = getattr(client, "base_url", None)
    if url is None:
        return ""
    try:
        parts = urlsplit(str(url))
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}" if host else ""


def _find_advice(error: BaseException, facts: Mapping[str, Any], client: Any) -> str:
    """Return what to do next about an error, or ""."""
    status, server = facts.get("status"), facts.get("server", "the server")
    if facts["type"] == "APIConnectionError":
        source = find_url_source(client)
        if not source:  # OpenAI's own address
            return "check your network"
        if _has_cause(error, "gaierror"):
            return f"check the host in the base URL {source}, and your network"
        if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
            return f"check that the server runs, and the base URL {source}"
    if status == 401:
        if not is_made_client(client):
            return f"check the API key of your client for {server}"
        key = getattr(client, "api_key", None)
        if key == NO_API_KEY:
            return "set OPENAI_API_KEY: the server needs a key"
        if key != os.environ.get("OPENAI_API_KEY", "").strip():
            return f"check the key of the profile, the key for {server}"
        return f"check OPENAI_API_KEY, the key for {server}"
    if status in (404, 405) and "server" in facts and not has_version(server):
        return f"the base URL has no /v1: try {server}/v1"
    if is_model_unknown(facts):
        return "name a model that this server has"
    if status == 429:
        has_credit = facts.get("code") != "insufficient_quota"
        return "wait before you ask again" if has_credit else "add credit at the provider, or use another server"
    return ""


def _has_cause(error: BaseException | None, name: str) -> bool:
    while error is not None:
        if type(error).__name__ == name:
            return True
        error = error.__cause__ or error.__context__
    return False


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
        text = f"{text.rstrip('.')}: {_ERROR_NUMBER.sub('', str(cause))}"
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
