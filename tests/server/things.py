"""Make what a route of the service names in its path."""

from __future__ import annotations

from typing import Any

from convstore.server.service_routes import ServiceRoute
from tests.server.conftest import KeyedService

_COMPLETIONS = "/v1/chat/completions/{id}"


def fill_path(keyed: KeyedService, route: ServiceRoute, owner: str) -> str:
    """Return the path of a route with the ids of things of an owner; they are made."""
    path, key = route.path, {"ada": keyed.keys.ada, "bob": keyed.keys.bob}[owner]
    if path.startswith(_COMPLETIONS):
        body = {"model": "test-model", "messages": [{"role": "user", "content": "Hello"}]}
        id = keyed.running.ask("POST", "/v1/chat/completions", key=key, json=body).json()["id"]
    else:
        item = {"type": "message", "role": "user", "content": "Hello", "id": "msg_here"}
        made: dict[str, Any] = {"metadata": {"made": "here"}, "items": [item]}
        id = keyed.running.ask("POST", "/v1/conversations", key=key, json=made).json()["id"]
    return path.replace("{id}", id).replace("{item}", "msg_here")
