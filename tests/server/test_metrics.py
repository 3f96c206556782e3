"""Test what `/metrics` tells, also with several processes, and that it tells nothing about anybody."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from convstore import AsyncStore
from convstore.server.service_metrics import MAX_MODELS, ServiceMetrics
from convstore.store.store_load import StoreLoad, measure_load
from convstore.testing import ChatServer, Failure, Reply
from tests.processes import PATIENCE
from tests.server.conftest import KeyedService
from tests.server.running import RunningService, serving
from tests.server.test_serving import wait_for_workers


def read_metrics(running: RunningService, key: str | None = None) -> dict[str, float]:
    """Return all samples, by name and labels."""
    answer = running.ask("GET", "/metrics", key=key)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return read_samples(answer.text)


def read_samples(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def is_running(pid: int) -> bool:
    """Return True if a process runs; one that has ended may wait to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def count_requests(route: str, status: int, method: str = "GET") -> str:
    return f'convstore_http_requests_total{{method="{method}",route="{route}",status="{status}"}}'


def test_requests_are_counted_by_route_and_status(keyless: RunningService) -> None:
    before = read_metrics(keyless)
    id = keyless.ask("POST", "/v1/conversations", json={}).json()["id"]
    for path in (f"/v1/conversations/{id}", "/v1/conversations/none", f"/{id}"):
        keyless.ask("GET", path)
    after = read_metrics(keyless)
    for name in (
        count_requests("/v1/conversations", 200, "POST"),
        count_requests("/v1/conversations/{id}", 200),
        count_requests("/v1/conversations/{id}", 404),
        count_requests("-", 404),
    ):
        assert after[name] == before.get(name, 0) + 1
    assert after['convstore_http_request_seconds_count{method="GET",route="/v1/conversations/{id}"}'] >= 2
    assert after["convstore_turns_running"] == after["convstore_turns_waiting"] == 0
    assert after['convstore_database_connections{state="idle"}'] >= 1


def test_metrics_need_the_right_admin_once_there_is_a_key(keyed: KeyedService) -> None:
    admin = keyed.store.create_key(rights=["admin"]).secret
    assert keyed.running.ask("GET", "/metrics").status_code == 401
    for key in (keyed.keys.ada, keyed.keys.agent):
        assert keyed.running.ask("GET", "/metrics", key=key).status_code == 403
    assert keyed.running.ask("GET", "/v1/conversations", key=admin).status_code == 403
    assert read_metrics(keyed.running, admin)


def test_no_owner_id_or_key_and_nothing_that_a_client_chose_is_in_them(keyed: KeyedService) -> None:
    admin = keyed.store.create_key(rights=["admin"])
    made = keyed.running.ask("POST", "/v1/conversations", key=keyed.keys.ada, json={}).json()["id"]
    keyed.running.ask("GET", f"/v1/conversations/{made}?mark=1", key=keyed.keys.ada, headers={"X-Request-Id": "mark-2"})
    keyed.running.ask("MARK", "/v1/conversations", key=keyed.keys.ada)
    keyed.running.ask("GET", "/mark", headers={"Host": "mark.example.org"})
    text = keyed.running.ask("GET", "/metrics", key=admin.secret).text
    for secret in (made, "ada", "mark", "MARK", admin.key.id, keyed.keys.ada):
        assert secret not in text
    labels = set(re.findall(r'[{,](\w+)="', text))
    assert labels <= {"method", "route", "status", "le", "state", "model", "kind"}


def test_several_processes_are_measured_as_one_and_a_dead_one_uses_nothing(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nonexistent")  # another program's
    with serving(postgres_url, "--workers", "2", TMPDIR=str(tmp_path)) as running:
        workers = wait_for_workers(running, 2, set())
        (folder,) = tmp_path.glob("convstore-metrics-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for _ in range(20):
            running.ask("GET", "/v1/conversations")
        name = count_requests("/v1/conversations", 200)
        assert read_metrics(running)[name] == 20
        killed = min(workers)
        os.kill(killed, signal.SIGKILL)
        wait_for_workers(running, 2, {killed})
        gauge = folder / f"gauge_livesum_{killed}.db"
        deadline = time.monotonic() + PATIENCE
        while gauge.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not gauge.exists()
        assert read_metrics(running)[name] == 20  # what it has counted stays
        assert running.end() == 0
    assert not folder.exists()


def test_a_folder_that_a_killed_service_left_is_removed_and_that_of_a_running_one_is_not(
    sqlite_url: str, tmp_path: Path
) -> None:
    with serving(sqlite_url, "--workers", "2", TMPDIR=str(tmp_path)) as running:
        workers = wait_for_workers(running, 2, set())
        (left,) = tmp_path.glob("convstore-metrics-*")
        running.end(signal.SIGKILL)
        # Nobody would end them or start them again: they end when the first process has died.
        deadline = time.monotonic() + PATIENCE
        while any(map(is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_running, workers))
    with serving(sqlite_url, "--workers", "2", TMPDIR=str(tmp_path)):
        (first,) = tmp_path.glob("convstore-metrics-*")
        assert first != left
        with serving(sqlite_url, "--workers", "2", TMPDIR=str(tmp_path)):
            assert len(list(tmp_path.glob("convstore-metrics-*"))) == 2
        assert list(tmp_path.glob("convstore-metrics-*")) == [first]


def test_turns_are_counted_with_their_tokens_and_times() -> None:
    metrics = ServiceMetrics()
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": -1},
    }
    metrics.observe_turn("completed", 1.5, 0.25, usage, "gpt")
    metrics.observe_turn("failed", 0.1)
    metrics.observe_turn("interrupted", 2.0, 0.5, None, "gpt")
    metrics.set_load(StoreLoad(3, 2, 5, 1))
    found = read_samples(metrics.render().decode())
    assert found['convstore_turns_total{model="gpt",status="completed"}'] == 1
    assert found['convstore_turns_total{model="",status="failed"}'] == 1
    assert found['convstore_turn_tokens_total{kind="input",model="gpt"}'] == 9
    assert found['convstore_turn_tokens_total{kind="output",model="gpt"}'] == 4
    assert found['convstore_turn_tokens_total{kind="cached",model="gpt"}'] == 3
    assert 'convstore_turn_tokens_total{kind="reasoning",model="gpt"}' not in found
    assert found['convstore_turn_seconds_sum{model="gpt"}'] == 1.5  # of completed ones
    assert found['convstore_turn_first_token_seconds_count{model="gpt"}'] == 2
    assert (found["convstore_turns_running"], found["convstore_turns_waiting"]) == (3, 2)
    assert found['convstore_database_connections{state="used"}'] == 5


def test_only_so_many_models_have_series_of_their_own() -> None:
    metrics = ServiceMetrics()
    for number in range(1000):
        metrics.observe_turn("completed", 1.0, None, None, f"model-{number}")
    for odd in ("x" * 101, "a\nb", "\ud800"):
        metrics.observe_turn("odd", 1.0, None, None, odd)
    found = read_samples(metrics.render().decode())
    models = {name for name in found if name.startswith("convstore_turns_total")}
    assert len(models) == MAX_MODELS + 2
    assert found['convstore_turns_total{model="other",status="completed"}'] == 1000 - MAX_MODELS
    assert found['convstore_turns_total{model="other",status="other"}'] == 3


def test_a_store_tells_how_many_turns_run_and_wait(sqlite_url: str, chat_server: ChatServer) -> None:
    async def main() -> None:
        go, started = threading.Event(), threading.Event()
        chat_server.script(Reply("a", hold=go, started=started), Reply("b"))
        async with AsyncStore(sqlite_url, base_url=chat_server.url, model="m") as store:
            id = (await store.new()).id
            first = asyncio.create_task(store.say(id, "one"))
            await asyncio.to_thread(started.wait, PATIENCE)
            second = asyncio.create_task(store.say(id, "two"))
            while not measure_load(store).waiting_calls:
                await asyncio.sleep(0.01)
            load = measure_load(store)
            assert (load.running_turns, load.waiting_calls) == (1, 1)
            go.set()
            await asyncio.gather(first, second)
            assert measure_load(store) == StoreLoad(0, 0, 0, 1)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_turns_of_the_service_are_counted(sqlite_url: str) -> None:
    with (
        ChatServer() as upstream,
        serving(sqlite_url, "--upstream", upstream.url, OPENAI_API_KEY="none") as running,
    ):
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
        upstream.script(Reply("a", usage=usage, model="m-2026"), Failure(400))
        body = {"model": "chosen-by-a-client", "messages": [{"role": "user", "content": "Hello"}]}
        for stream, status in ((True, 200), (False, 400)):
            answer = running.ask("POST", "/v1/chat/completions", json={**body, "stream": stream})
            assert answer.status_code == status
        text = running.ask("GET", "/metrics").text
    found = read_samples(text)
    assert "chosen" not in text
    assert found['convstore_turns_total{model="m-2026",status="completed"}'] == 1
    assert found['convstore_turns_total{model="",status="failed"}'] == 1
    assert found['convstore_turn_first_token_seconds_count{model="m-2026"}'] == 1
    assert found['convstore_turn_seconds_count{model="m-2026"}'] == 1
