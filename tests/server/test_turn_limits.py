"""Test how many turns of an owner may run at one time, and how many tokens it may use on a day."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2 as httpx
import pytest
from sqlalchemy import text

from convstore import InvalidInput, Store
from convstore.db.turn_counts import _TOKENS, _running_statement
from convstore.leases.turn_allowance import find_midnight
from convstore.server.callers import Caller
from convstore.server.service_settings import ServiceSettings
from convstore.server.turn_limits import choose_allowance
from convstore.testing import ChatServer, Reply
from convstore.values.api_key import TurnAllowance
from tests.contract.invariants import engine_of
from tests.processes import PATIENCE
from tests.server.running import RunningService, serving
from tests.server.test_serving import wait_for_workers


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """Return an empty database, on each backend in turn."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


def ask(running: RunningService, message: str, key: str | None = None, **headers: str) -> httpx.Response:
    """Ask for a completion."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"model": "m", "messages": [{"role": "user", "content": message}]}
    return running.ask("POST", "/v1/chat/completions", key=key, json=body, headers=named)


class Asking:
    """Asks in threads, while the upstream holds its answers back."""

    def __init__(self, running: RunningService, upstream: ChatServer, held: int) -> None:
        self.go = threading.Event()
        self._upstream = upstream
        self._running = running
        self._pool = ThreadPoolExecutor(16)
        self._begun = 0
        upstream.script(*(Reply(f"reply {number}", hold=self.go) for number in range(held)))

    def ask(self, message: str, key: str | None = None, **headers: str) -> Future[httpx.Response]:
        return self._pool.submit(ask, self._running, message, key, **headers)

    def wait_for(self, requests: int) -> None:
        assert self._upstream.wait_requests(requests, PATIENCE)

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        self._pool.shutdown()


def test_no_more_turns_of_an_owner_run_at_one_time_however_many_are_asked_for_at_once(database: str) -> None:
    workers = "1" if database.startswith("sqlite") else "2"
    with ChatServer() as upstream:
        options = ("--upstream", upstream.url, "--max-turns", "3", "--workers", workers)
        with (
            serving(database, *options, OPENAI_API_KEY="none") as running,
            Asking(running, upstream, 3) as asking,
        ):
            asked = [asking.ask(f"message {number}") for number in range(12)]
            asking.wait_for(3)
            refused = wait_until(lambda: [one.result() for one in asked if one.done()], 9)
            assert {answer.status_code for answer in refused} == {429}
            assert {answer.headers["retry-after"] for answer in refused} == {"1"}
            assert all("x-should-retry" not in answer.headers for answer in refused)
            error = refused[0].json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            asking.go.set()
            assert Counter(one.result().status_code for one in asked) == {200: 3, 429: 9}
            assert ask(running, "later").status_code == 200
    with Store(database) as store:
        assert len(store.list()) == 4  # nothing of what was refused is stored


def wait_until(find: Callable[[], list[Any]], count: int) -> list[Any]:
    deadline = time.monotonic() + PATIENCE
    while len(found := find()) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(found) == count
    return found


def test_a_key_has_its_own_number_and_other_owners_are_not_concerned(database: str) -> None:
    with Store(database) as store:
        one = store.for_owner("ada").create_key(max_turns=1).secret
        any_number = store.for_owner("ada").create_key(max_turns=0).secret
        other = store.for_owner("bob").create_key().secret
    with ChatServer() as upstream:
        options = ("--upstream", upstream.url, "--max-turns", "2")
        with (
            serving(database, *options, OPENAI_API_KEY="none") as running,
            Asking(running, upstream, 6) as asking,
        ):
            asked = [asking.ask("a", one)]
            asking.wait_for(1)
            assert ask(running, "b", one).status_code == 429
            asked += [asking.ask(f"c {number}", any_number) for number in range(3)]
            asking.wait_for(4)
            asked += [asking.ask(f"d {number}", other) for number in range(2)]
            asking.wait_for(6)
            assert ask(running, "e", other).status_code == 429
            asking.go.set()
            assert {each.result().status_code for each in asked} == {200}


def test_a_request_that_repeats_a_running_one_is_no_further_turn(database: str) -> None:
    with ChatServer() as upstream:
        options = ("--upstream", upstream.url, "--max-turns", "1")
        with (
            serving(database, *options, OPENAI_API_KEY="none") as running,
            Asking(running, upstream, 1) as asking,
        ):
            asked = [asking.ask("a", Idempotency_Key="k")]
            asking.wait_for(1)
            asked.append(asking.ask("a", Idempotency_Key="k"))
            assert ask(running, "b").status_code == 429
            asking.go.set()
            first, second = (one.result() for one in asked)
            assert (first.status_code, second.status_code) == (200, 200)
            assert first.json()["id"] == second.json()["id"]
        assert len(upstream.requests) == 1


def test_a_limit_holds_for_all_services_on_a_database(postgres_url: str) -> None:
    with ChatServer() as upstream:
        options = ("--upstream", upstream.url, "--max-turns", "1")
        with (
            serving(postgres_url, *options, OPENAI_API_KEY="none") as one,
            serving(postgres_url, *options, OPENAI_API_KEY="none") as other,
            Asking(one, upstream, 1) as asking,
        ):
            asked = asking.ask("a")
            asking.wait_for(1)
            assert ask(other, "b").status_code == 429
            asking.go.set()
            assert asked.result().status_code == 200
            assert ask(other, "b").status_code == 200


def test_a_turn_of_a_process_that_was_killed_does_not_count(postgres_url: str) -> None:
    with ChatServer() as upstream:
        options = ("--upstream", upstream.url, "--max-turns", "1", "--workers", "2")
        with (
            serving(postgres_url, *options, OPENAI_API_KEY="none") as running,
            Asking(running, upstream, 1) as asking,
        ):
            workers = wait_for_workers(running, 2, set())
            asked = asking.ask("a")
            asking.wait_for(1)
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            assert asked.exception() is not None
            wait_for_workers(running, 2, workers)
            assert ask(running, "b").status_code == 200


def test_the_tokens_of_a_day_are_those_of_the_turns_that_began_on_it(database: str) -> None:
    with Store(database) as store:
        key = store.for_owner("ada").create_key(max_tokens_a_day=20).secret
        other = store.for_owner("bob").create_key().secret
    used = {"prompt_tokens": 15, "completion_tokens": 4, "total_tokens": 19}
    with ChatServer() as upstream:
        upstream.script(
            Reply("a", usage=used),
            Reply("b", usage={"prompt_tokens": 1, "completion_tokens": 0}),
            Reply("c"),
            Reply("d"),
        )
        with serving(database, "--upstream", upstream.url, OPENAI_API_KEY="none") as running:
            assert ask(running, "a", key).status_code == 200  # 19
            assert ask(running, "b", key).status_code == 200  # 20
            refused = ask(running, "c", key)
            assert refused.status_code == 429
            assert refused.headers["x-should-retry"] == "false"
            left = find_midnight(datetime.now(UTC)) + timedelta(days=1) - datetime.now(UTC)
            assert abs(int(refused.headers["retry-after"]) - left.total_seconds()) < 120
            assert ask(running, "c", other).status_code == 200
            with Store(database) as store, engine_of(store).begin() as connection:
                since = (
                    "datetime(started_at, '-1 day')"
                    if database.startswith("sqlite")
                    else "started_at - interval '1 day'"
                )
                connection.execute(text(f"UPDATE convstore_turns SET started_at = {since} WHERE total_tokens = 19"))
            assert ask(running, "d", key).status_code == 200


def test_a_stream_that_reports_no_tokens_counts_all_the_same(database: str) -> None:
    with Store(database) as store:
        key = store.create_key(max_tokens_a_day=50).secret
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Count."}]}
    with ChatServer() as upstream:
        upstream.script(Reply("one two three four " * 20), Reply("again"))
        with serving(database, "--upstream", upstream.url, OPENAI_API_KEY="none") as running:
            asked = running.ask("POST", "/v1/chat/completions", key=key, json=body)
            assert asked.status_code == 200
            assert '"usage":{' not in asked.text.replace(" ", "")
            assert ask(running, "more", key).status_code == 429


def test_under_a_limit_nothing_passes_without_being_recorded(sqlite_url: str) -> None:
    with Store(sqlite_url) as store:
        limited = store.create_key(max_turns=9).secret
        unlimited = store.create_key(max_turns=0).secret
    body = {"model": "m", "store": False, "messages": [{"role": "user", "content": "Hello"}]}
    with ChatServer() as upstream, serving(sqlite_url, "--upstream", upstream.url, OPENAI_API_KEY="none") as running:
        refused = running.ask("POST", "/v1/chat/completions", key=limited, json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "store")
        assert running.ask("POST", "/v1/chat/completions", key=limited, json={**body, "store": True}).status_code == 200
        assert running.ask("POST", "/v1/chat/completions", key=unlimited, json=body).status_code == 200


def test_a_limit_of_a_key_is_a_whole_number(sqlite_url: str) -> None:
    wrong: tuple[Any, ...] = (-1, 1.5, True, "3", 10**16)
    with Store(sqlite_url) as store:
        for value in wrong:
            with pytest.raises(InvalidInput, match="a limit of a key"):
                store.create_key(max_turns=value)
            with pytest.raises(InvalidInput, match="a limit of a key"):
                store.create_key(max_tokens_a_day=value)
        made = store.create_key(max_turns=3, max_tokens_a_day=10**15)
        assert store.check_key(made.secret).key == made.key
        assert store.list_keys() == [made.key]


@pytest.mark.parametrize(
    ("of_key", "of_service", "expected"),
    [(None, 0, None), (None, 5, 5), (3, 5, 3), (7, 5, 7), (0, 5, None), (0, 0, None)],
)
def test_the_number_of_a_key_goes_before_that_of_the_service(
    of_key: int | None, of_service: int, expected: int | None
) -> None:
    caller = Caller("", frozenset(), "", TurnAllowance(of_key, of_key))
    settings = ServiceSettings(None, max_turns=of_service, max_tokens_a_day=of_service)
    assert choose_allowance(caller, settings) == TurnAllowance(expected, expected)


def test_counting_reads_only_what_runs_and_what_began_today(sqlite_url: str) -> None:
    with Store(sqlite_url) as store:
        store.new()
        engine = engine_of(store)
        with engine.connect() as connection:
            for statement, index in (
                (_running_statement("sqlite"), "convstore_turns_running_idx"),
                (_TOKENS, "convstore_turns_owner_started_at_idx"),
            ):
                compiled = statement.compile(engine)
                moment = "2026-11-28 00:00:00"
                values = tuple(
                    "" if name == "key_owner" else compiled.params[name] or moment
                    for name in compiled.positiontup or ()
                )
                values = tuple(str(value) for value in values)
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", values)
                assert index in str(plan.fetchall())
