"""The model's side of the wire: openai clients, what `create` takes, and what its failures mean.

Anything that speaks Chat Completions will do: OpenAI, or a compatible server through `OPENAI_BASE_URL`. openai is
imported by the first call and not before: it costs half a second.
"""

from __future__ import annotations

import inspect
import json
import os
import random
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from convstore.errors import NotConfigured
from convstore.messages.completion import NotACompletion
from convstore.values.completion_parameters import CALL_OPTIONS

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_NO_KEY = "no-key"  # servers of one's own take any key; the client insists on one
_NOT_GENERATED = (429, 503)
_NOT_CONNECTED = ("ConnectError", "ConnectTimeout", "PoolTimeout")  # of httpx, before a request is sent
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 8.0  # seconds
_LONGEST_WAIT = 60.0  # seconds that a provider may ask for; beyond, its error is the answer
_LONGEST_ERROR = 2000  # characters of a provider's error text that are kept


def make_client(base_url: str | None = None) -> OpenAI:
    """Return an openai client from the environment.

    Args:
        base_url: of a compatible server; else `OPENAI_BASE_URL` is used, else OpenAI itself.

    Raises:
        NotConfigured: neither a key nor a server is named.
    """
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
    key = os.environ.get("OPENAI_API_KEY", "").strip() or None
    if key is None and base_url is None:
        raise NotConfigured(
            "no model to talk to: set OPENAI_API_KEY for OpenAI, or OPENAI_BASE_URL for any server that speaks "
            "Chat Completions, or name that server with --base-url (in Python: Store(client=…))"
        )
    if key is not None and not (key.isascii() and key.isprintable()):
        # The HTTP library would refuse it too, with a message that shows it.
        raise NotConfigured("OPENAI_API_KEY has a character that no HTTP header can carry")
    import openai

    try:
        return openai.OpenAI(api_key=key or _NO_KEY, base_url=base_url, max_retries=0)
    except openai.OpenAIError as error:
        raise NotConfigured(f"the openai client cannot be made: {error}") from error


def make_async_client(base_url: str | None = None) -> AsyncOpenAI:
    """Return an async openai client from the environment; as `make_client`."""
    import openai

    sync = make_client(base_url)
    return openai.AsyncOpenAI(api_key=sync.api_key, base_url=sync.base_url, max_retries=0)


def is_whole(stream: Any) -> bool:
    """Whether a server that was asked for a stream answered with JSON: a whole completion, or an error."""
    return "json" in _content_type(stream)


def read_whole(body: bytes) -> Any:
    """Return the JSON that a server answered instead of a stream.

    Raises:
        NotACompletion: it is not JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise NotACompletion("the provider's answer is not JSON") from None


def check_stream(stream: Any) -> None:
    """Check that an answer can be a stream of events.

    Raises:
        NotACompletion: it is a page for people, or a text.
    """
    kind = _content_type(stream)
    if isinstance(stream, (str, bytes)) or "html" in kind:
        raise NotACompletion(f"the provider's answer is not a stream of events ({kind or 'text'})")


def iterate_chunks(stream: Any) -> Any:
    """Return one iterator, sync or async, over the chunks of a stream.

    openai's streams are iterators themselves; `iter` would make another generator for every loop.
    """
    if hasattr(stream, "__next__") or hasattr(stream, "__anext__"):
        return stream
    return aiter(stream) if hasattr(stream, "__aiter__") else iter(stream)


def _content_type(stream: Any) -> str:
    headers = getattr(getattr(stream, "response", None), "headers", None)
    return str(headers.get("content-type", "")).lower() if headers is not None else ""


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


def wait_before_retry(error: BaseException, attempt: int) -> float | None:
    """Return how many seconds to wait before the call may be made again; None if it must not be.

    Only where nothing can have been generated: the connection was never made, or the provider said so (429, 503). A
    reply that was lost on its way may have been paid for, and asking again would double it.

    Args:
        attempt: how many calls were repeated before this one, from 0.
    """
    status = getattr(error, "status_code", None)
    if status in _NOT_GENERATED:
        if getattr(error, "code", None) == "insufficient_quota":
            return None  # waiting will not help
        asked = _retry_after(error)
        if asked is not None:
            return asked if asked <= _LONGEST_WAIT else None
    elif type(error.__cause__).__name__ not in _NOT_CONNECTED:
        return None
    backoff: float = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2**attempt)
    return backoff * random.uniform(0.75, 1.25)  # noqa: S311


def _retry_after(error: BaseException) -> float | None:
    """Return the seconds of a `Retry-After` header (RFC 9110, 10.2.3: seconds, or a date), or None."""
    value = getattr(getattr(error, "response", None), "headers", {}).get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds)


# What servers say: OpenAI's code; llama.cpp's type; and in their words vLLM, llama.cpp, Ollama, LM Studio, Mistral.
_OVERFLOW_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_OVERFLOW = re.compile(
    r"maximum context length|exceeds? the (available |model's )?(maximum )?context|context (size|length|window)"
    r"|prompt is too long|too many tokens|input length|longer than the maximum model length",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"(?:maximum context length is|context (?:size|length|window)[^0-9]{0,20}?) ?\(?(\d{2,})", re.IGNORECASE
)
_REQUESTED = re.compile(
    r"(?:resulted in|requested|request(?: has)?|prompt (?:contains|is)|input[^0-9]{0,20}?)(?: about)? ?\(?(\d{2,})",
    re.IGNORECASE,
)
# Of servers that count the room for the reply too, what is the prompt's part: vLLM's, OpenAI's.
_PROMPT = re.compile(r"(\d+) in the messages|prompt contains (?P<least>at least )?(\d+) input tokens", re.IGNORECASE)
_REPLY = re.compile(r"(\d+) in the completion|requested (\d+) output tokens", re.IGNORECASE)
_OF_THE_LIMIT = 0.8  # what is aimed at: counts are estimates, and the reply needs room too


def overflow(error: BaseException) -> float | None:
    """Return what share of the request's tokens may fit, if the provider found it too long; else None.

    By the numbers that it gives, else a half.
    """
    if getattr(error, "status_code", None) not in (400, 413, 422):
        return None
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    facts = inner if isinstance(inner, Mapping) else {}
    codes = (getattr(error, "code", None), facts.get("code"), facts.get("type"))
    text = _message(error)
    if not any(code in _OVERFLOW_CODES for code in codes if isinstance(code, str)) and not _OVERFLOW.search(text):
        return None
    prompt, limit = facts.get("n_prompt_tokens"), facts.get("n_ctx")  # llama.cpp's
    if not isinstance(prompt, int) or not isinstance(limit, int):
        prompt, limit = _numbers(text)
    return _OF_THE_LIMIT * limit / prompt if 0 < limit < prompt else 0.5


def _numbers(text: str) -> tuple[int, int]:
    """Return of how many tokens a server says that a prompt is, and how many it may have; zeros: it does not say."""
    limit, prompt, reply = _LIMIT.search(text), _PROMPT.search(text), _REPLY.search(text)
    if limit is None:
        return 0, 0
    if prompt is None or reply is None:
        requested = _REQUESTED.search(text)
        return (int(requested[1]) if requested is not None else 0), int(limit[1])
    if prompt["least"]:
        return 0, 0  # it stopped counting where there was no more room
    return int(prompt[1] or prompt[3]), int(limit[1]) - int(reply[1] or reply[2])


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
