"""The application: its routes, and how a request becomes a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from convstore.server.callers import Callers
from convstore.server.completion_routes import COMPLETION_ROUTES
from convstore.server.conversation_item_routes import CONVERSATION_ITEM_ROUTES
from convstore.server.conversation_routes import CONVERSATION_ROUTES
from convstore.server.description_routes import make_description_route
from convstore.server.embedding_routes import EMBEDDING_ROUTES
from convstore.server.grace_time import find_seconds_left
from convstore.server.health_routes import list_health_routes
from convstore.server.json_bodies import read_json_object
from convstore.server.metrics_routes import METRICS_ROUTES
from convstore.server.model_routes import MODEL_ROUTES
from convstore.server.process_watch import watch_process
from convstore.server.request_guard import OWN_REQUEST_ID_HEADER, REQUEST_ID_HEADER, RequestGuard
from convstore.server.request_rates import RequestRates
from convstore.server.service_errors import ServiceError, make_not_found
from convstore.server.service_metrics import ServiceMetrics
from convstore.server.service_routes import OpenRoute, ServiceCall, ServiceRoute
from convstore.server.service_settings import ServiceSettings
from convstore.server.stored_completion_routes import STORED_COMPLETION_ROUTES
from convstore.store.async_store import AsyncStore
from convstore.store.request_recorder import RequestRecorder

_DESCRIBED: tuple[ServiceRoute, ...] = (
    *MODEL_ROUTES,
    *COMPLETION_ROUTES,
    *STORED_COMPLETION_ROUTES,
    *EMBEDDING_ROUTES,
    *CONVERSATION_ROUTES,
    *CONVERSATION_ITEM_ROUTES,
    *METRICS_ROUTES,
)
ROUTES = (*_DESCRIBED, make_description_route(_DESCRIBED))
"""Every route but those of the service's health. A route that is not here does not exist."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What all calls of one process share."""

    settings: ServiceSettings
    callers: Callers
    recorder: RequestRecorder
    metrics: ServiceMetrics


def make_application(settings: ServiceSettings) -> ASGIApp:
    """Return the application of one process; it opens its own store."""
    store = AsyncStore(settings.database, schema=settings.schema, base_url=settings.upstream, profile=settings.profile)
    callers = Callers(store, RequestRates(settings))
    metrics = ServiceMetrics(settings.metrics_folder)
    parts = _Parts(settings, callers, RequestRecorder(store, metrics.observe_stored_turn, settings.routes), metrics)

    @asynccontextmanager
    async def live(_: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(watch_process(parts.metrics, store)) if settings.workers > 1 else None
        try:
            await callers.begin()
            yield
        finally:
            if watching is not None:
                watching.cancel()
            await parts.recorder.finish(find_seconds_left(settings.grace_seconds))
            await callers.finish()
            await store.close()

    middleware = [Middleware(RequestGuard, settings=settings, metrics=parts.metrics)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=[REQUEST_ID_HEADER, OWN_REQUEST_ID_HEADER, "retry-after"],
            )
        )
    application = Starlette(
        routes=[
            *_make_routes(parts),
            *(_make_open_route(store, one) for one in list_health_routes()),
        ],
        middleware=middleware,
        exception_handlers={HTTPException: _refuse_path},
        lifespan=live,
    )
    # A redirection would name the host that the client said.
    application.router.redirect_slashes = False
    return application


def _make_routes(parts: _Parts) -> list[BaseRoute]:
    paths: dict[str, list[ServiceRoute]] = {}
    for route in ROUTES:
        if route.is_passed_as is not None and route.is_passed_as not in parts.settings.passes:
            continue
        paths.setdefault(route.path, []).append(route)
    return [_make_route(parts, path, routes) for path, routes in paths.items()]


def _make_route(parts: _Parts, path: str, routes: Sequence[ServiceRoute]) -> BaseRoute:
    by_method = {route.method: route for route in routes}

    async def serve(request: Request) -> Response:
        route = by_method["GET" if request.method == "HEAD" else request.method]
        facts = request.scope["convstore"]
        facts["route"] = path
        caller = await parts.callers.identify(request.scope, request.headers)
        facts["key"] = caller.key_id or "-"
        caller.check_right(route.needs)
        body, raw = await read_json_object(request, parts.settings) if route.has_body else ({}, b"")
        return await route.endpoint(
            ServiceCall(
                request=request,
                settings=parts.settings,
                store=parts.callers.store.for_owner(caller.owner),
                caller=caller,
                recorder=parts.recorder,
                metrics=parts.metrics,
                body=body,
                raw_body=raw,
            )
        )

    return Route(path, serve, methods=list(by_method))


def _make_open_route(store: AsyncStore, route: OpenRoute) -> BaseRoute:
    async def serve(request: Request) -> Response:
        request.scope["convstore"]["route"] = route.path
        return await route.endpoint(store)

    return Route(route.path, serve, methods=["GET"])


async def _refuse_path(_: Request, error: Exception) -> Response:
    """Tell in OpenAI's form that a path or a method does not exist."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        raise ServiceError(405, "this path has no such method", "method_not_allowed", headers=error.headers)
    raise make_not_found("path")
