"""Test the line that each request leaves in the log."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from convstore import Store
from tests.server.running import RunningService, serving


def read_lines(running: RunningService) -> list[dict[str, Any]]:
    """Return the lines of the log, all of which are JSON objects, about requests."""
    found = [json.loads(line) for line in running.log]
    return [line for line in found if "route" in line]


def test_each_request_is_one_line_of_json(sqlite_url: str) -> None:
    with Store(sqlite_url) as store:
        made = store.create_key()
    with serving(sqlite_url, "--log", "json") as running:
        answer = running.ask("GET", "/v1/conversations?mark=1", key=made.secret, headers={"X-Request-Id": "r-1"})
        running.ask("GET", "/mark%0a", key=made.secret)
        running.ask("POST", "/v1/conversations", key="cs_mark", json={"metadata": {"mark": "mark"}})
        assert running.end() == 0
    log = "".join(running.log)
    (line,) = [one for one in read_lines(running) if one["request_id"] == "r-1"]
    assert set(line) == {"time", "method", "route", "status", "seconds", "bytes", "request_id", "key_id"}
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/conversations", 200)
    assert line["bytes"] == len(answer.content)
    assert line["key_id"] == made.key.id
    assert 0 <= line["seconds"] < 60
    assert abs(datetime.fromisoformat(line["time"]) - datetime.now(UTC)) < timedelta(minutes=5)
    assert [(one["route"], one["status"], one["key_id"]) for one in read_lines(running)][-2:] == [
        (None, 404, None),
        ("/v1/conversations", 401, None),
    ]
    assert "mark" not in log
    assert made.secret not in log


def test_all_other_lines_are_json_too_those_of_every_process_and_of_the_start(postgres_url: str) -> None:
    with Store(postgres_url) as store:
        store.create_key()
    options = ("--log", "json", "--host", "0.0.0.0", "--workers", "2")
    with serving(postgres_url, *options) as running:
        running.end()
    found = [json.loads(line) for line in running.log]
    (warning,) = [line for line in found if "TLS" in line.get("message", "")]
    assert (warning["level"], warning["logger"]) == ("warning", "convstore")
    assert [line["route"] for line in found if "route" in line] == ["/healthz"]


@pytest.mark.parametrize(("form", "verbose", "has_lines"), [("text", False, True), ("none", True, False)])
def test_text_is_the_same_without_v_and_none_is_none_with_it(
    sqlite_url: str, form: str, verbose: bool, has_lines: bool
) -> None:
    with serving(sqlite_url, "--log", form, verbosity="-vv" if verbose else "") as running:
        running.end()
    assert any("GET /healthz 200, " in line for line in running.log) == has_lines
