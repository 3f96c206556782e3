"""`POST /v1/embeddings`: forwarded and not recorded, if the service was told to (`--pass embeddings`)."""

from __future__ import annotations

from starlette.responses import Response

from convstore.server.completion_routes import find_client, pass_unrecorded
from convstore.server.service_routes import ServiceCall, ServiceRoute
from convstore.values.api_key import Right

EMBEDDINGS = "embeddings"


async def create_embedding(call: ServiceCall) -> Response:
    """Forward a request for embeddings."""
    return await pass_unrecorded(call, await find_client(call), EMBEDDINGS)


EMBEDDING_ROUTES = (
    ServiceRoute("POST", "/v1/embeddings", create_embedding, Right.WRITE, has_body=True, is_passed_as=EMBEDDINGS),
)
