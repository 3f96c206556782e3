"""`/metrics`: what the service has measured, for Prometheus."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from convstore.server.service_metrics import CONTENT_TYPE
from convstore.server.service_routes import ServiceCall, ServiceRoute
from convstore.store.store_load import measure_load
from convstore.values.api_key import Right


async def report_metrics(call: ServiceCall) -> Response:
    """Return the measurements of all processes of this service."""
    call.metrics.set_load(measure_load(call.store))
    # In a thread: with several processes, it reads files of each.
    text = await asyncio.to_thread(call.metrics.render)
    return Response(text, headers={"content-type": CONTENT_TYPE})


METRICS_ROUTES = (ServiceRoute("GET", "/metrics", report_metrics, Right.ADMIN),)
