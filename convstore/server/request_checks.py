"""Checks of a request before anything is done for it: which name it called, and which page sent it.

A browser sends requests for any page that its user opens. They are recognised by `Host` (a name that was rebound to
this machine), by `Origin` and `Sec-Fetch-Site` (a foreign page), and by the type of the body: a page may send
`application/json` to another site only after the browser has asked that site.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from convstore.server.service_errors import ServiceError
from convstore.server.service_settings import ServiceSettings, is_loopback_name, read_address

_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")
_PROXY_HEADERS = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip", "x-original-host"}
)


def check_request(scope: Scope, headers: Headers, settings: ServiceSettings) -> None:
    """Check which name a request called, and which page sent it.

    Raises:
        ServiceError: 421, 403 or 400.
    """
    _check_host(scope, headers, settings)
    _check_origin(headers, settings)


def _check_host(scope: Scope, headers: Headers, settings: ServiceSettings) -> None:
    found = headers.getlist("host")
    match = _HOST.fullmatch(found[0]) if len(found) == 1 else None
    if match is None:
        raise ServiceError(400, "a request needs one Host header", "invalid_host")
    name = match[1].strip("[]").lower().rstrip(".")
    bound = [settings.host.lower(), (scope.get("server") or ("",))[0]]
    if is_loopback_name(name) or name in settings.allowed_hosts or any(_is_same_host(name, one) for one in bound):
        return
    raise ServiceError(
        421, "this service does not answer to that name; `--allowed-host` allows another one", "misdirected_request"
    )


def _is_same_host(name: str, bound: str) -> bool:
    if name == bound:
        return bool(name)
    try:
        return read_address(name) == read_address(bound)
    except ValueError:
        return False


def _check_origin(headers: Headers, settings: ServiceSettings) -> None:
    origins = headers.getlist("origin")
    if len(origins) > 1:
        raise ServiceError(400, "a request has one Origin header at most", "invalid_origin")
    is_allowed = bool(origins) and (origins[0] in settings.cors_origins or _is_own_origin(origins[0], headers["host"]))
    if (origins and not is_allowed) or (headers.get("sec-fetch-site") == "cross-site" and not is_allowed):
        raise ServiceError(403, "pages of other sites may not call this service (`--cors-origin` allows one)", "origin")


def _is_own_origin(origin: str, host: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def check_not_forwarded(headers: Headers) -> None:
    """Check that no proxy sent a request without a key: whoever may reach the proxy would own everything.

    Raises:
        ServiceError: 403.
    """
    if any(name in _PROXY_HEADERS or name.startswith("x-forwarded-") for name in headers):
        raise ServiceError(
            403, "without a key, no proxy may send requests here; `convstore keys create` makes one", "forwarded"
        )


def check_content_type(headers: Headers) -> None:
    """Check that a body is JSON as it is: neither a form of a web page nor compressed.

    Raises:
        ServiceError: 415.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ServiceError(415, "the body must have the content type application/json", "unsupported_media_type")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ServiceError(415, "the body must not be compressed", "unsupported_encoding")
