"""`/v1/models`: what the upstream says about its models."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.responses import Response

from convstore.errors import ConvstoreError
from convstore.server.service_errors import ServiceError
from convstore.server.service_routes import ServiceCall, ServiceRoute
from convstore.server.upstream_answers import choose_headers
from convstore.values.api_key import Right

_logger = logging.getLogger(__name__)

_SECONDS = 30.0
_MAX_BYTES = 8 * 2**20


async def list_models(call: ServiceCall) -> Response:
    """Forward the request for the models, with the service's own key and no header of the client."""
    try:
        client = await asyncio.to_thread(lambda: call.store.client)  # the first use imports openai
    except ConvstoreError as error:  # its text is for the operator: it names files
        _logger.warning("no model server can be asked (%s)", type(error).__name__)
        raise ServiceError(
            503,
            "the service has no model server to ask",
            "upstream_not_configured",
            headers={"x-should-retry": "false"},
        ) from None
    import openai

    try:
        async with client.models.with_streaming_response.list(timeout=_SECONDS) as answer:
            response: Any = answer.http_response
            return Response(await _read(response), response.status_code, choose_headers(response.headers))
    except openai.APIStatusError as error:  # the upstream's own error, with its body
        return Response(error.response.content, error.response.status_code, choose_headers(error.response.headers))
    except openai.APITimeoutError:
        raise ServiceError(504, "the model server did not answer in time", "upstream_timeout") from None
    except openai.APIConnectionError:
        raise ServiceError(502, "the model server cannot be reached", "upstream_unreachable") from None


async def _read(response: Any) -> bytes:
    pieces, size = [], 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > _MAX_BYTES:
            raise ServiceError(502, "the model server's list of models is too long", "upstream_too_large")
        pieces.append(piece)
    return b"".join(pieces)


MODEL_ROUTES = (ServiceRoute("GET", "/v1/models", list_models, Right.READ),)
