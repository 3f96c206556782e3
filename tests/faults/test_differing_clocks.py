"""Test callers that share a SQLite file, see nothing of each other's processes, and have clocks hours apart."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from convstore import AsyncStore, ConversationBusy, Store, TurnStatus
from convstore.db import unit_of_work
from convstore.db.lease_rows import Lease
from convstore.db.tables import conversations
from convstore.leases import heartbeat, lease_watch
from convstore.testing import ChatServer
from convstore.turns.turn_request import make_say_request, make_terms
from convstore.turns.turn_start import start_turn
from convstore.values.identifiers import ConversationKey
from tests.cli.program import Program
from tests.contract.invariants import check_conversation, engine_of
from tests.faults.clients import open_store
from tests.faults.gates import Gate, wait_for_waiters
from tests.processes import PATIENCE, Channel, Child, Zygote

LEASE = 2.0  # seconds
HOURS = [5, -5]
SPAN = timedelta(seconds=30)
HOST: Any = unit_of_work  # the one module that reads the host's clocks for the database


def make_shifted_clock(seconds: float) -> type[datetime]:
    """Return a host's clock that is some seconds ahead."""

    class ShiftedClock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=seconds)

    return ShiftedClock


def say_by_another_clock(
    channel: Channel, *, url: str, base_url: str, id: str, text: str, hours: float, stream: bool = False
) -> None:
    """Say one message in a process with a clock that is some hours ahead, and report the outcome."""

    HOST.datetime = make_shifted_clock(hours * 3600)
    heartbeat.FLUSH_SECONDS = 0.01
    with open_store(url, base_url, lease=LEASE) as store:
        if stream:
            with store.stream(id, text) as reply:
                list(reply)
            turn = reply.turn
        else:
            turn = store.say(id, text)
    channel.send(["ended", [turn.status, turn.text]])


@pytest.fixture
def store(sqlite_url: str, chat_server: ChatServer) -> Any:
    with open_store(sqlite_url, chat_server.url) as store:
        yield store


Starter = Callable[..., Child]


@pytest.fixture
def start_far_away(zygote: Zygote, other_host: Path, sqlite_url: str, chat_server: ChatServer) -> Starter:
    """Return a function that begins a held turn on another host with another clock."""

    def start(gate: Gate, id: str, hours: float, *, stream: bool = False) -> Child:
        child = zygote.start(
            say_by_another_clock,
            host=other_host,
            url=sqlite_url,
            base_url=chat_server.url,
            id=id,
            text="held",
            hours=hours,
            stream=stream,
        )
        gate.wait()
        return child

    return start


def lease_of(store: Store, id: str) -> tuple[datetime, int]:
    with engine_of(store).connect() as connection:
        columns = (conversations.c.lease_expires_at, conversations.c.lease_ms)
        expires_at, milliseconds = connection.execute(select(*columns).where(conversations.c.id == id)).one()
    return expires_at, milliseconds


# --- with real processes ---


@pytest.mark.parametrize(("hours", "stream"), [(5, True), (-5, False)])
def test_a_turn_by_another_clock_keeps_its_conversation_while_it_lives(
    hours: float, stream: bool, store: Store, chat_server: ChatServer, start_far_away: Starter
) -> None:
    id = store.new().id
    gate = Gate(chat_server, lambda text: text == "held", hold_after=1)
    child = start_far_away(gate, id, hours, stream=stream)
    expires_at, milliseconds = lease_of(store, id)
    assert milliseconds == LEASE * 1000
    assert abs((expires_at - datetime.now(UTC)).total_seconds() - hours * 3600) < 60
    for _ in range(2):
        with pytest.raises(ConversationBusy):
            store.say(id, "next", wait=1.5 * LEASE)
    assert lease_of(store, id)[0] > expires_at
    gate.open()
    assert child.receive("ended") == ["completed", "You said: held"]
    assert store.say(id, "next", wait=0).text == "You said: next"
    check_conversation(store, "", id)


@pytest.mark.parametrize("hours", HOURS)
def test_the_turn_of_a_dead_process_with_another_clock_is_taken_over_within_its_span(
    hours: float, store: Store, chat_server: ChatServer, start_far_away: Starter
) -> None:
    id = store.new().id
    child = start_far_away(Gate(chat_server, lambda text: text == "held"), id, hours)
    child.kill()
    began = time.monotonic()
    assert store.say(id, "next", wait=PATIENCE).text == "You said: next"
    took = time.monotonic() - began
    share = 1 / 2 if hours < 0 else 3 / 4
    assert share * LEASE <= took < LEASE + 1.5, took
    assert store.turns(id)[0].status is TurnStatus.INTERRUPTED
    check_conversation(store, "", id)
    print(f"\nlease {LEASE} s, the dead process's clock {hours} h ahead: taken over after {took:.2f} s")


def test_callers_in_line_and_other_stores_wait_for_the_watch_of_the_first(
    store: Store,
    sqlite_url: str,
    chat_server: ChatServer,
    start_far_away: Starter,
    elsewhere: Callable[..., Future[Any]],
) -> None:
    id = store.new().id
    child = start_far_away(Gate(chat_server, lambda text: text == "held"), id, 5)
    child.kill()

    async def say_as_task() -> str:
        async with AsyncStore(sqlite_url, base_url=chat_server.url, model="test-model") as other:
            return (await other.say(id, "task", wait=PATIENCE)).text

    waiting = []
    for number in range(4):
        waiting.append(elsewhere(store.say, id, f"{number}", wait=PATIENCE))
        wait_for_waiters(store, id, number + 1)
    began = time.monotonic()
    assert asyncio.run(say_as_task()) == "You said: task"
    assert time.monotonic() - began < LEASE + 2
    assert [future.result(PATIENCE).text for future in waiting] == [f"You said: {number}" for number in range(4)]
    check_conversation(store, "", id)


def test_a_command_takes_the_conversation_of_a_dead_process_with_another_clock(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    store: Store,
    sqlite_url: str,
    chat_server: ChatServer,
    start_far_away: Starter,
) -> None:
    program = Program(monkeypatch, tmp_path)
    program.set(CONVSTORE_DB=sqlite_url, OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="test-model")
    id = store.new().id
    child = start_far_away(Gate(chat_server, lambda text: text == "held"), id, 5)
    child.kill()
    program("say", "-c", id, "next", "--wait", "0").failed(5, "is busy")
    ran = program("say", "-c", id, "next", "--wait", str(LEASE))
    assert (ran.code, ran.out) == (0, "You said: next\n")


# --- with rows as another process left them, and a clock that jumps ---


class Jumping:
    """The module `time` with a monotonic clock that jumps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.seconds


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets seconds pass for the units of work of this process."""
    clock = Jumping()
    for module in (unit_of_work, lease_watch):
        monkeypatch.setattr(module, "time", clock)

    def jump(seconds: float) -> None:
        clock.seconds += seconds
        monkeypatch.setattr(unit_of_work, "datetime", make_shifted_clock(clock.seconds))

    return jump


def begin_as_a_stranger(store: Store, id: str, expires_in: float, lease_ms: int | None = 30_000) -> None:
    """Begin a turn that no process of this host runs, with a lease that expires in some seconds."""
    transactions, key = store._engine.transactions, ConversationKey("", id)
    name = os.urandom(16).hex()
    request = make_say_request("held", {}, make_terms("test-model"))
    transactions.write(start_turn, key, request, Lease(f"{name}.0", SPAN))
    expires_at = HOST.datetime.now(UTC) + timedelta(seconds=expires_in)
    with engine_of(store).begin() as connection:
        connection.execute(
            update(conversations).where(conversations.c.id == id).values(lease_expires_at=expires_at, lease_ms=lease_ms)
        )


CALLS: dict[str, Callable[[Store, str], object]] = {
    "say": lambda store, id: store.say(id, "next", on_busy="reject"),
    "stream": lambda store, id: list(store.stream(id, "next", wait=0)),
    "retry": lambda store, id: store.retry(id, wait=0),
    "edit": lambda store, id: store.edit(id, 1, "otherwise", wait=0),
    "append": lambda store, id: store.append(id, "added", wait=0),
    "undo": lambda store, id: store.undo(id),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_refused_call_begins_the_watch_so_that_a_later_one_succeeds(
    call: str, store: Store, jump: Callable[[float], None]
) -> None:
    for expires_in, share in ((-18_000, 1 / 2), (18_000, 3 / 4), (30, 1), (1, 1 / 2)):
        id = store.new().id
        store.say(id, "first")
        begin_as_a_stranger(store, id, expires_in)
        with pytest.raises(ConversationBusy):
            CALLS[call](store, id)
        jump(30 * share - 1)
        with pytest.raises(ConversationBusy):
            CALLS[call](store, id)
        jump(1.5)
        CALLS[call](store, id)
        check_conversation(store, "", id)


def test_stop_ends_a_turn_at_once_that_was_watched_long_enough(store: Store, jump: Callable[[float], None]) -> None:
    id = store.new().id
    begin_as_a_stranger(store, id, 18_000)
    with pytest.raises(ConversationBusy):
        store.say(id, "next", wait=0)
    jump(30)
    began = time.monotonic()
    assert store.stop(id, wait=PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2
    check_conversation(store, "", id)


def test_following_ends_when_the_turn_has_been_watched_long_enough(store: Store, jump: Callable[[float], None]) -> None:
    id = store.new().id
    begin_as_a_stranger(store, id, 18_000)
    with pytest.raises(ConversationBusy):
        store.say(id, "next", wait=0)
    jump(30)
    assert list(store.follow(id)) == []


def test_a_lease_that_expired_more_than_a_day_ago_is_taken_over_at_once(store: Store) -> None:
    id = store.new().id
    begin_as_a_stranger(store, id, -86_500)
    assert store.say(id, "next", wait=0).text == "You said: next"
    begin_as_a_stranger(store, id, -86_300)
    with pytest.raises(ConversationBusy):
        store.say(id, "next", wait=0)


@pytest.mark.parametrize("lease", [1.0, 60.0])
def test_the_lease_of_an_older_release_has_the_span_of_the_store_or_the_default(
    lease: float, sqlite_url: str, chat_server: ChatServer, jump: Callable[[float], None]
) -> None:
    with open_store(sqlite_url, chat_server.url, lease=lease) as store:
        span = max(lease, lease_watch.DEFAULT_LEASE_SECONDS)
        for expires_in, share in ((-18_000, 1 / 2), (18_000, 3 / 4)):
            id = store.new().id
            begin_as_a_stranger(store, id, expires_in, lease_ms=None)
            for seconds in (0, span * share - 1):
                jump(seconds)
                with pytest.raises(ConversationBusy):
                    store.say(id, "next", wait=0)
            jump(1.5)
            assert store.say(id, "next", wait=0).text == "You said: next"


def test_on_postgresql_the_clock_of_the_server_decides(postgres_url: str, chat_server: ChatServer) -> None:
    with open_store(postgres_url, chat_server.url) as store:
        id = store.new().id
        begin_as_a_stranger(store, id, 2)
        with pytest.raises(ConversationBusy):
            store.say(id, "next", wait=0)
        with engine_of(store).begin() as connection:
            connection.execute(update(conversations).values(lease_expires_at=datetime.now(UTC) - timedelta(seconds=1)))
        assert store.say(id, "next", wait=0).text == "You said: next"
        check_conversation(store, "", id)
