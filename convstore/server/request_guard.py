"""What every request passes: an id, the checks, the access log, and an answer to every error."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convstore.errors import ConvstoreError
from convstore.server.request_checks import check_request
from convstore.server.service_errors import ServiceError, make_error_response, translate_error
from convstore.server.service_metrics import ServiceMetrics
from convstore.server.service_settings import ServiceSettings
from convstore.server.unread_bodies import BodyReading

_logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
REQUEST_ID_HEADER = "x-request-id"
OWN_REQUEST_ID_HEADER = "x-convstore-request-id"
"""Our id, also where `x-request-id` is the one of the upstream."""
_ALWAYS_SENT = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


class RequestGuard:
    """Checks requests before any route sees them."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: ServiceMetrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, headers = time.perf_counter(), Headers(scope=scope)
        request_id = _choose_id(headers)
        scope["convstore"] = {"request_id": request_id, "route": "-", "key": "-"}
        status, size, reading = 0, 0, BodyReading(headers, receive)

        async def send_on(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                sent.setdefault(REQUEST_ID_HEADER, request_id)
                sent[OWN_REQUEST_ID_HEADER] = request_id
                for name, value in _ALWAYS_SENT.items():
                    sent.setdefault(name, value)
                if "connection" not in sent and not await reading.read_rest():
                    sent["connection"] = "close"
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            try:
                check_request(scope, headers, self._settings)
                await self._app(scope, reading.receive, send_on)
            except Exception as error:
                if status:
                    raise  # the answer has begun: the connection is cut, so that nobody takes it for whole
                await make_error_response(_find_error(error, request_id))(scope, reading.receive, send_on)
        except asyncio.CancelledError:  # the time of grace is over: uvicorn would write a traceback for each request
            _logger.warning("request %s was cut off: the service ends", request_id)
        finally:
            self._note_end(scope, status, time.perf_counter() - begun, size)

    def _note_end(self, scope: Scope, status: int, seconds: float, size: int) -> None:
        """Count a request, and write its line of the access log.

        Neither has the path or the query: a client may put a secret into them by mistake.
        """
        facts, method = scope["convstore"], scope["method"]
        with suppress(OSError, ValueError):  # the disk is full: the request was answered all the same
            self._metrics.observe_request(method, facts["route"], status, seconds)
        access_line = {
            "method": method if len(method) < 10 else "-",
            "route": facts["route"],
            "status": status,
            "seconds": round(seconds, 4),
            "bytes": size,
            "request_id": facts["request_id"],
            "key_id": facts["key"],
        }
        _logger.info(
            "%(method)s %(route)s %(status)d, %(seconds).4f s, %(bytes)d bytes, request %(request_id)s, key %(key_id)s",
            access_line,
        )


def _find_error(error: Exception, request_id: str) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, ConvstoreError):
        found = translate_error(error)
        if found.status >= 500:
            _logger.warning("request %s failed: %s", request_id, type(error).__name__)
        return found
    _logger.error("request %s failed: unexpected %s", request_id, type(error).__name__)
    return ServiceError(500, "the service failed; its log says why", "internal_error")


def _choose_id(headers: Headers) -> str:
    """Return the id of a request: the client's own, if it is one, else a random one."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
