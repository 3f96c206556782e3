"""Test that the description of the routes is whole, and that the service does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convstore.server.application import ROUTES
from convstore.testing import Reply
from tests.processes import PATIENCE
from tests.server.conftest import KeyedService
from tests.server.running import RunningService, serving

COMPLETIONS = "/v1/chat/completions"


def read_description(running: RunningService, key: str | None = None) -> dict[str, Any]:
    answer = running.ask("GET", "/openapi.json", key=key)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_every_route_is_described_with_the_right_that_it_needs(keyless: RunningService) -> None:
    paths = read_description(keyless)["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES} | {("GET", "/healthz"), ("GET", "/readyz")}
    for route in ROUTES:
        one = paths[route.path][route.method.lower()]
        assert one["x-convstore-right"] == route.needs
        assert one["summary"]
        assert ("requestBody" in one) == route.has_body
    assert paths["/healthz"]["get"]["security"] == []


def test_the_description_tells_nothing_of_the_service_it_comes_from(keyed: KeyedService) -> None:
    text = str(read_description(keyed.running, keyed.keys.reader))
    for part in (keyed.upstream.url, "chat.example.org", "127.0.0.1", str(keyed.running.port)):
        assert part not in text


def run_schemathesis(running: RunningService, key: str, folder: Path, *options: str) -> None:
    """Let schemathesis ask what the description allows, and what it does not, and check the answers."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{running.url}/openapi.json"]
    command += ["-H", f"Authorization: Bearer {key}", "--seed", "1", "--generation-database", "none", "--no-color"]
    run = subprocess.run(
        [*command, *options], check=False, cwd=folder, capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.returncode == 0, run.stdout[-8000:]


@pytest.fixture
def busy(keyed: KeyedService) -> tuple[RunningService, str]:
    """Return the service, and a key that may do everything."""
    return keyed.running, keyed.store.for_owner("schemathesis").create_key(rights=["read", "write", "admin"]).secret


def test_the_service_does_what_the_description_says(busy: tuple[RunningService, str], tmp_path: Path) -> None:
    # An `after` that is no conversation's is refused, and no schema can say that.
    options = ("--exclude-path", COMPLETIONS, "--exclude-checks", "positive_data_acceptance", "--max-examples", "20")
    run_schemathesis(*busy, tmp_path, *options)


def test_whatever_is_asked_of_the_model_is_answered_in_the_form_of_the_description(
    keyed: KeyedService, busy: tuple[RunningService, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed.upstream, "otherwise", lambda _: Reply("As you like.", usage=None))
    # What is valid is decided by the server of the model.
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"
    )
    run_schemathesis(*busy, tmp_path, "--include-path", COMPLETIONS, "--checks", checks, "--max-examples", "40")


def test_a_method_that_a_path_has_not_is_told_with_those_that_it_has(sqlite_url: str) -> None:
    with serving(sqlite_url) as running:
        for method in ("TRACE", "PUT", "MARK"):
            answer = running.ask(method, "/v1/conversations")
            assert answer.status_code == 405
            assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
            assert answer.json()["error"]["code"] == "method_not_allowed"
