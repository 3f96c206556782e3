"""Make what a route of the service names in its path."""

from __future__ import annotations

from convstore.server.service_routes import ServiceRoute
from tests.server.conftest import KeyedService

_COMPLETIONS = "/v1/chat/completions/{id}"


def fill_path(keyed: KeyedService, route: ServiceRoute, owner: str) -> str:
    """Return the path of a route with the ids of things of an owner; they are made."""
    path = route.path
    if path.startswith(_COMPLETIONS):
        body = {"model": "test-model", "messages": [{"role": "user", "content": "Hello"}]}
        key = {"ada": keyed.keys.ada, "bob": keyed.keys.bob}[owner]
        id = keyed.running.ask("POST", "/v1/chat/completions", key=key, json=body).json()["id"]
    else:
        id = keyed.store.for_owner(owner).new(metadata={"made": "here"}).id
    return path.replace("{id}", id)
