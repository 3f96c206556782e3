"""Tell a stream of events from a JSON body and from a web page.

A server may answer a request for a stream with a whole completion or an error as JSON, a proxy with a page.
"""

from __future__ import annotations

from typing import Any

from convstore.messages.completion import NotACompletion
from convstore.messages.lenient_json import parse_lenient_json
from convstore.provider.raw_answer import RawAnswer


def is_json_response(stream: Any) -> bool:
    """Return True if a server that was asked for a stream answered with JSON."""
    return "json" in _get_content_type(stream)


def parse_json_body(body: bytes) -> Any:
    """Return the JSON value of a response's body.

    Raises:
        NotACompletion: the body is not JSON.
    """
    try:
        return parse_lenient_json(body)
    except (ValueError, RecursionError):
        raise NotACompletion("the provider's answer is not JSON") from None


def check_event_stream(stream: Any) -> None:
    """Check that an answer can be a stream of events.

    Raises:
        NotACompletion: the answer is a web page or a text.
    """
    content_type = _get_content_type(stream)
    if isinstance(stream, (str, bytes)) or "html" in content_type:
        raise NotACompletion(f"the provider's answer is not a stream of events ({content_type or 'text'})")


def iterate_chunks(stream: Any) -> Any:
    """Return one iterator, sync or async, over the chunks of a stream.

    openai's streams are iterators themselves; `iter` would make another generator for every loop.
    """
    if isinstance(stream, RawAnswer):
        return stream.iterate()
    if hasattr(stream, "__next__") or hasattr(stream, "__anext__"):
        return stream
    return aiter(stream) if hasattr(stream, "__aiter__") else iter(stream)


def _get_content_type(stream: Any) -> str:
    headers = getattr(getattr(stream, "response", None), "headers", None)
    return str(headers.get("content-type", "")).lower() if headers is not None else ""
