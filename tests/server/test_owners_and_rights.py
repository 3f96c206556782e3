"""Test which conversations a key opens: requests of every route, made from the table of routes.

A new route is tested without a word here. One with an id in its path gets the id of a thing of another owner.
"""

from __future__ import annotations

import json
import re
import uuid

import pytest

from convstore.server.application import ROUTES
from convstore.server.service_routes import ServiceRoute
from convstore.values.api_key import Right
from tests.server.conftest import KeyedService
from tests.server.running import RunningService
from tests.server.things import fill_path

EVERY_ROUTE = pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
WITH_ID = [route for route in ROUTES if "{id}" in route.path]
BODY = {"metadata": {"a": "b"}, "items": [{"role": "user", "content": "Hi"}]}


def ask(
    running: RunningService, route: ServiceRoute, key: str | None, path: str | None = None, **headers: str
) -> tuple[int, str]:
    """Make a request of a route; return the status and the body without what differs from request to request.

    Args:
        path: the path with ids; None: with ids that nobody has.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = BODY if route.has_body else None
    path = path if path is not None else make_unknown_path(route)
    answer = running.ask(route.method, path, key=key, json=body, headers=named)
    return answer.status_code, answer.text


def make_unknown_path(route: ServiceRoute) -> str:
    return re.sub(r"\{\w+\}", "x", route.path)


@EVERY_ROUTE
def test_a_route_needs_a_valid_key(keyed: KeyedService, route: ServiceRoute) -> None:
    running, keys = keyed.running, keyed.keys
    wrong = [keys.ada[:-1], keys.ada + "x", "cs_" + "A" * 43, "sk-other", keys.revoked, keys.expired]
    answers = {ask(running, route, key) for key in wrong}
    assert {status for status, _ in answers} == {401}
    assert len(answers) == 1  # the same, whatever is wrong with the key
    status, text = ask(running, route, None)
    assert status == 401
    assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}


@EVERY_ROUTE
@pytest.mark.parametrize("header", ["Basic {}", "bearer", "Token {}", "{}"])
def test_only_bearer_counts(keyed: KeyedService, route: ServiceRoute, header: str) -> None:
    key = keyed.keys.ada
    authorization = {"Authorization": header.format(key), "api-key": key, "Cookie": f"key={key}"}
    answer = keyed.running.ask(
        route.method, route.path, json=BODY if route.has_body else None, headers=authorization, params={"api_key": key}
    )
    assert answer.status_code == 401


@EVERY_ROUTE
def test_a_route_needs_its_right(keyed: KeyedService, route: ServiceRoute) -> None:
    without = keyed.keys.writer if route.needs is Right.READ else keyed.keys.reader
    assert ask(keyed.running, route, without)[0] == 403


@pytest.mark.parametrize("route", WITH_ID, ids=lambda route: f"{route.method} {route.path}")
def test_a_conversation_of_another_owner_is_as_if_it_did_not_exist(keyed: KeyedService, route: ServiceRoute) -> None:
    theirs = fill_path(keyed, route, "bob")
    before = read_all(keyed, "bob")
    other, nobodys = ask(keyed.running, route, keyed.keys.ada, theirs), ask(keyed.running, route, keyed.keys.ada)
    assert other == nobodys
    assert other[0] == 404
    assert read_all(keyed, "bob") == before
    assert ask(keyed.running, route, keyed.keys.bob, theirs)[0] == 200


@pytest.mark.parametrize("route", WITH_ID, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_serves_its_owner(keyed: KeyedService, route: ServiceRoute) -> None:
    assert ask(keyed.running, route, keyed.keys.ada, fill_path(keyed, route, "ada"))[0] == 200


def read_all(keyed: KeyedService, owner: str) -> list[object]:
    """Return all conversations of an owner, and all of their messages and turns."""
    store = keyed.store.for_owner(owner)
    found = store.list(limit=None)
    return [(one, store.tree(one.id), store.turns(one.id, limit=None)) for one in found]


def test_a_list_has_nothing_of_other_owners(keyed: KeyedService) -> None:
    theirs = keyed.store.for_owner("bob").new().id
    page = keyed.running.ask("GET", "/v1/conversations?limit=100", key=keyed.keys.ada).json()
    assert theirs not in [one["id"] for one in page["data"]]
    assert keyed.running.ask("GET", f"/v1/conversations?after={theirs}", key=keyed.keys.ada).status_code == 400


# --- acting for others ---


@pytest.mark.parametrize("header", ["X-Convstore-Owner", "X-OpenWebUI-User-Id", "X-User-Id"])
def test_a_key_acts_for_owners_that_begin_with_its_prefix(keyed: KeyedService, header: str) -> None:
    owner = f"team-{uuid.uuid4()}"
    made = keyed.running.ask("POST", "/v1/conversations", key=keyed.keys.agent, json={}, headers={header: owner})
    assert made.status_code == 200
    assert keyed.store.for_owner(owner).get(made.json()["id"]).owner == owner
    path = f"/v1/conversations/{made.json()['id']}"
    assert keyed.running.ask("GET", path, key=keyed.keys.agent).status_code == 404  # as itself
    other = {header: "team-2"}
    assert keyed.running.ask("GET", path, key=keyed.keys.agent, headers=other).status_code == 404


@EVERY_ROUTE
@pytest.mark.parametrize("owner", ["ada", "team", "Team-1", "xteam-1"])
def test_a_key_does_not_act_for_other_owners(keyed: KeyedService, route: ServiceRoute, owner: str) -> None:
    path = fill_path(keyed, route, "ada") if "{id}" in route.path else route.path
    assert ask(keyed.running, route, keyed.keys.agent, path, X_Convstore_Owner=owner)[0] == 403


@EVERY_ROUTE
def test_a_key_without_the_right_acts_for_nobody(keyed: KeyedService, route: ServiceRoute) -> None:
    for header in ("X_Convstore_Owner", "X_OpenWebUI_User_Id", "X_User_Id"):
        assert ask(keyed.running, route, keyed.keys.ada, **{header: "team-1"})[0] == 403


def test_a_request_that_names_two_owners_or_none_at_all_is_refused(keyed: KeyedService) -> None:
    for headers in ({"X-Convstore-Owner": "team-1", "X-User-Id": "team-2"}, {"X-User-Id": ""}):
        answer = keyed.running.ask("GET", "/v1/conversations", key=keyed.keys.agent, headers=headers)
        assert answer.status_code == 400


def test_an_owner_may_have_any_characters(keyed: KeyedService) -> None:
    owner = "team-用户 7"
    headers = {"X-Convstore-Owner": owner.encode()}
    made = keyed.running.ask("POST", "/v1/conversations", key=keyed.keys.agent, json={}, headers=headers)  # type: ignore[arg-type]
    assert keyed.store.for_owner(owner).get(made.json()["id"]).owner == owner


# --- a life of a key ---


def test_a_revoked_key_is_refused_at_once_and_its_last_use_is_shown(keyed: KeyedService) -> None:
    store = keyed.store.for_owner("carol")
    made = store.create_key()
    assert keyed.running.ask("GET", "/v1/conversations", key=made.secret).status_code == 200
    for _ in range(1000):  # the use is noted after the answer
        (shown,) = store.list_keys()
        if shown.last_used_at is not None:
            break
        keyed.running.ask("GET", "/healthz")
    assert shown.last_used_at is not None
    keyed.running.ask("GET", "/v1/conversations", key=made.secret)
    assert store.list_keys() == [shown]  # written at most once a minute
    store.revoke_key(made.key.id)
    assert keyed.running.ask("GET", "/v1/conversations", key=made.secret).status_code == 401
    store.purge_owner(finish=False)
    assert store.list_keys() == []


def test_no_secret_is_in_the_log(keyed: KeyedService) -> None:
    keyed.running.ask("GET", f"/v1/{keyed.keys.ada}?key={keyed.keys.ada}", key=keyed.keys.ada)
    keyed.running.ask("GET", "/v1/conversations", key=keyed.keys.ada, headers={"X-Request-Id": "mark-1"})
    keyed.running.ask("GET", "/healthz")
    logged = "".join(keyed.running.log)
    assert "request mark-1, key " in logged
    assert keyed.keys.ada not in logged
    assert "cs_" not in logged
