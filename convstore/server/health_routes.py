"""`/healthz` and `/readyz`: whether the process lives, and whether it can work. They tell nothing else."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.responses import PlainTextResponse, Response

from convstore.errors import ConvstoreError
from convstore.server.service_routes import OpenRoute
from convstore.store.async_store import AsyncStore

_logger = logging.getLogger(__name__)

_CHECK_SECONDS = 5.0
_CHECK_HOLDS_SECONDS = 1.0
"""Anybody may ask, so the database is asked once a second at most."""


async def report_alive(_: AsyncStore) -> Response:
    """Answer that the process lives."""
    return PlainTextResponse("ok\n")


class Readiness:
    """Whether the database can be reached and has the schema of this release."""

    def __init__(self) -> None:
        self._is_ready = False
        self._checked_at = -_CHECK_HOLDS_SECONDS
        self._checking: asyncio.Task[bool] | None = None

    async def report_ready(self, store: AsyncStore) -> Response:
        """Answer whether the service can work."""
        if time.monotonic() - self._checked_at >= _CHECK_HOLDS_SECONDS:
            if self._checking is None or self._checking.done():
                self._checking = asyncio.create_task(_check(store))
            self._is_ready = await asyncio.shield(self._checking)
            self._checked_at = time.monotonic()
        return PlainTextResponse("ok\n") if self._is_ready else PlainTextResponse("unavailable\n", 503)


async def _check(store: AsyncStore) -> bool:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await store.check_key("")
    except (ConvstoreError, TimeoutError) as error:
        _logger.warning("the database cannot be used (%s)", type(error).__name__)
        return False
    return True


def list_health_routes() -> list[OpenRoute]:
    """Return the routes."""
    return [OpenRoute("/healthz", report_alive), OpenRoute("/readyz", Readiness().report_ready)]
