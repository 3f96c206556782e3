"""What an upstream answers, as a client gets it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_GIVEN_BACK = ("content-type", "x-request-id", "retry-after")
_GIVEN_BACK_PREFIXES = ("openai-", "x-ratelimit-")


def choose_headers(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers of an upstream's answer that clients get; never a cookie."""
    items = headers.items() if isinstance(headers, Mapping) else headers
    return {
        name.lower(): value
        for name, value in items
        if (name.lower() in _GIVEN_BACK or name.lower().startswith(_GIVEN_BACK_PREFIXES)) and value.isascii()
    }
