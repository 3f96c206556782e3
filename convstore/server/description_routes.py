"""`/openapi.json`: the description of all routes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from starlette.responses import Response

from convstore import __version__
from convstore.server.api_description import describe_api
from convstore.server.health_routes import list_health_routes
from convstore.server.json_answers import JsonAnswer
from convstore.server.service_routes import ServiceCall, ServiceRoute
from convstore.values.api_key import Right


def make_description_route(others: Sequence[ServiceRoute]) -> ServiceRoute:
    """Return the route that describes all routes, itself too."""

    async def describe_routes(_: ServiceCall) -> Response:
        """Return this description."""
        return JsonAnswer(describe())

    route = ServiceRoute("GET", "/openapi.json", describe_routes, Right.READ)

    @cache
    def describe() -> dict[str, Any]:
        return describe_api([*others, route], list_health_routes(), __version__)

    return route
