"""The form of a route, and of the call that it serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from convstore.server.callers import Caller
from convstore.server.service_metrics import ServiceMetrics
from convstore.server.service_settings import ServiceSettings
from convstore.store.async_store import AsyncStore
from convstore.store.request_recorder import RequestRecorder
from convstore.values.api_key import Right


@dataclass(frozen=True, slots=True)
class ServiceCall:
    """A request that was checked: who sends it, and with which body."""

    request: Request
    settings: ServiceSettings
    store: AsyncStore
    """The store of the owner that the caller works for."""
    caller: Caller
    recorder: RequestRecorder
    metrics: ServiceMetrics
    body: dict[str, Any]
    """The JSON object that was sent; {} for a route without a body."""
    raw_body: bytes
    """The same, as it came."""

    @property
    def id(self) -> str:
        """The id in the path."""
        id: str = self.request.path_params["id"]
        return id


Endpoint: TypeAlias = Callable[[ServiceCall], Awaitable[Response]]
OpenEndpoint: TypeAlias = Callable[[AsyncStore], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class ServiceRoute:
    """A route that needs a right. The tests make requests of each: as a stranger, as another owner, without a right."""

    method: str
    path: str
    endpoint: Endpoint
    needs: Right
    has_body: bool = False
    is_passed_as: str | None = None
    """What `--pass` must name, so that the route exists; None: it always does."""


@dataclass(frozen=True, slots=True)
class OpenRoute:
    """A route that anybody may call, and that tells nothing but whether the service works."""

    path: str
    endpoint: OpenEndpoint
