"""Read the JSON body of a request, within limits of size and time."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from convstore.server.request_checks import check_content_type
from convstore.server.service_errors import ServiceError
from convstore.server.service_settings import ServiceSettings
from convstore.transfer.checked_json import UnreadableJson, parse_json

_PARSED_AT_ONCE = 256 * 1024
"""Larger bodies are parsed in a thread, so that others do not wait."""
CLOSE = {"connection": "close"}
"""The rest of the body is not read, so that the connection cannot be used again."""


async def read_json_object(request: Request, settings: ServiceSettings) -> tuple[dict[str, Any], bytes]:
    """Return the body of a request, a JSON object, and the bytes that it came in.

    Raises:
        ServiceError: 400, 408, 413 or 415.
    """
    check_content_type(request.headers)
    data = await _read_body(request, settings)
    try:
        value = parse_json(data) if len(data) <= _PARSED_AT_ONCE else await asyncio.to_thread(parse_json, data)
    except UnreadableJson as error:
        raise ServiceError(400, f"the body {error}", "invalid_json") from None
    if not isinstance(value, dict):
        raise ServiceError(400, "the body must be a JSON object", "invalid_json")
    return value, data


async def _read_body(request: Request, settings: ServiceSettings) -> bytes:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > settings.max_body_bytes:
        raise _refuse_size(settings)
    pieces, size = [], 0
    try:
        async with asyncio.timeout(settings.read_seconds):
            async for piece in request.stream():
                size += len(piece)
                if size > settings.max_body_bytes:
                    raise _refuse_size(settings)
                pieces.append(piece)
    except TimeoutError:
        raise ServiceError(408, "the body did not come in time", "request_timeout", headers=CLOSE) from None
    except ClientDisconnect:
        raise ServiceError(400, "the client left before its body had come", "client_disconnected") from None
    return b"".join(pieces)


def _refuse_size(settings: ServiceSettings) -> ServiceError:
    text = f"the body is larger than {settings.max_body_bytes:,} bytes"
    return ServiceError(413, text, "request_too_large", headers=CLOSE)
