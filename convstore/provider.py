"""The model's side of the wire: openai clients, what `create` takes, and what its failures mean.

Anything that speaks Chat Completions will do: OpenAI, or a compatible server through `OPENAI_BASE_URL`. openai is
imported by the first call and not before: it costs half a second.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from convstore.completions import NotACompletion
from convstore.errors import NotConfigured
from convstore.params import CALL_OPTIONS

if TYPE_CHECKING:
    from openai import OpenAI

_NO_KEY = "no-key"  # servers of one's own take any key; the client insists on one
_LONGEST_ERROR = 2000  # characters of a provider's error text that are kept


def make_client(base_url: str | None = None) -> OpenAI:
    """Return an openai client from the environment.

    Args:
        base_url: of a compatible server; else `OPENAI_BASE_URL` is used, else OpenAI itself.

    Raises:
        NotConfigured: neither a key nor a server is named.
    """
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
    key = os.environ.get("OPENAI_API_KEY") or None
    if key is None and base_url is None:
        raise NotConfigured(
            "no model to talk to: set OPENAI_API_KEY for OpenAI, or OPENAI_BASE_URL for any server that speaks "
            "Chat Completions, or name that server with --base-url (in Python: Store(client=…))"
        )
    import openai

    try:
        return openai.OpenAI(api_key=key or _NO_KEY, base_url=base_url, max_retries=0)
    except openai.OpenAIError as error:
        raise NotConfigured(f"the openai client cannot be made: {error}") from error


def without_retries(client: Any) -> Any:
    """Return the caller's client with its own retries off: a retry that nobody sees could double a reply."""
    configure = getattr(client, "with_options", None)
    return configure(max_retries=0) if configure is not None else client


def call_arguments(client: Any, request: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to call `chat.completions.create` with; a parameter that it does not name goes into the body."""
    arguments = {**request, **options}
    completions: type = type(client.chat.completions)
    known = _known_parameters(completions)
    unknown = [key for key in request if key not in known] if known else []
    if unknown:
        body = {key: arguments.pop(key) for key in unknown}
        arguments["extra_body"] = {**body, **(arguments.get("extra_body") or {})}
    return arguments


@lru_cache(maxsize=8)
def _known_parameters(completions: type) -> frozenset[str]:
    parameters = inspect.signature(completions.create).parameters  # type: ignore[attr-defined]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return frozenset()  # a caller's own client that takes everything
    return frozenset(parameters) | CALL_OPTIONS


def describe(error: BaseException, client: Any) -> dict[str, Any]:
    """Return what a turn records about a failure: `type`, `message`, and where known `status` and `code`.

    The key never appears in it, whatever the provider put into its message.
    """
    facts: dict[str, Any] = {"type": type(error).__name__, "message": _message(error)}
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        facts["status"] = status
    code = getattr(error, "code", None)
    if isinstance(code, (str, int)):
        facts["code"] = code
    key = getattr(client, "api_key", None)
    if isinstance(key, str) and key and key != _NO_KEY:
        facts = {name: _without(key, value) for name, value in facts.items()}
    return facts


def _without(key: str, value: Any) -> Any:
    return value.replace(key, "[key]") if isinstance(value, str) else value


def _message(error: BaseException) -> str:
    body = getattr(error, "body", None)
    text = ""
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        inner = inner.get("message") if isinstance(inner, Mapping) else inner
        text = inner if isinstance(inner, str) else ""
    if not text and isinstance(error, ValueError) and not isinstance(error, NotACompletion):
        text = f"the provider's answer is not JSON ({error})"
    text = text or str(error) or type(error).__name__
    cause = error.__cause__
    if cause is not None and type(error).__name__ == "APIConnectionError" and str(cause):
        text = f"{text.rstrip('.')}: {cause}"
    return " ".join(text.split())[:_LONGEST_ERROR]
