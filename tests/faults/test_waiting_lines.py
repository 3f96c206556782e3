"""Test callers of one process that wait for the same conversation: in order, and without looking at the database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event

from convstore import AsyncStore, ConversationBusy, Store
from convstore.leases import waiting
from convstore.leases.waiting_lines import LINES, Place, WaitingLines
from convstore.testing import ChatServer
from convstore.values.identifiers import ConversationKey
from tests.contract.invariants import check_conversation, engine_of
from tests.faults.conftest import Opener
from tests.faults.gates import Gate, wait_for_waiters

PATIENCE = 60.0
WAITERS = 12


@pytest.fixture
def store(opening: Opener) -> Store:
    return opening()


@pytest.fixture
def gate(chat_server: ChatServer) -> Gate:
    return Gate(chat_server, lambda text: text == "first")


@contextlib.contextmanager
def count_looks(store: Store) -> Iterator[list[str]]:
    """Yield the statements that read who holds a conversation."""
    looks: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "AS has_expired" in statement and statement.startswith("SELECT"):
            looks.append(statement)

    event.listen(engine_of(store), "before_cursor_execute", note)
    try:
        yield looks
    finally:
        event.remove(engine_of(store), "before_cursor_execute", note)


def read_asked(store: Store, id: str) -> list[str]:
    """Return the texts of the user's messages."""
    return [message["content"] for message in store.history(id) if message["role"] == "user"]


def test_threads_come_next_in_the_order_of_their_calls(store: Store, gate: Gate) -> None:
    id = store.new().id
    line = store._engine.name_line(ConversationKey("", id))
    with ThreadPoolExecutor(WAITERS + 1) as threads, count_looks(store) as looks:
        futures: list[Future[Any]] = [threads.submit(store.say, id, "first", wait=PATIENCE)]
        gate.wait()
        for number in range(WAITERS):
            call: Callable[..., Any] = store.append if number % 4 == 3 else store.say
            futures.append(threads.submit(call, id, {"role": "user", "content": f"{number}"}, wait=PATIENCE))
            wait_for_waiters(store, id, number + 1)
        before = len(looks)
        gate.open()
        for future in futures:
            future.result(PATIENCE)
    assert read_asked(store, id) == ["first", *(f"{number}" for number in range(WAITERS))]
    # The first waiter was refused once, and its attempt read who holds the conversation. Nobody else looked in vain.
    assert (before, len(looks)) == (1, 1)
    assert not LINES.has_waiters(line)
    check_conversation(store, "", id)


def test_tasks_come_next_in_the_order_of_their_calls(
    database_url: str, store: Store, chat_server: ChatServer, gate: Gate
) -> None:
    id = store.new().id

    async def say_many() -> list[Any]:
        async with AsyncStore(database_url, base_url=chat_server.url, model="m") as tasks:
            said = [asyncio.create_task(tasks.say(id, "first"))]
            await asyncio.to_thread(gate.wait)
            for number in range(WAITERS):
                said.append(asyncio.create_task(tasks.say(id, f"{number}", wait=PATIENCE)))
                await asyncio.to_thread(wait_for_waiters, store, id, number + 1)
            said[5].cancel()
            await asyncio.to_thread(wait_for_waiters, store, id, WAITERS - 1)
            gate.open()
            return await asyncio.gather(*said, return_exceptions=True)

    names = [type(outcome).__name__ for outcome in asyncio.run(say_many())]
    assert names == ["Turn"] * 5 + ["CancelledError"] + ["Turn"] * (WAITERS - 5)
    assert read_asked(store, id) == ["first", *(f"{number}" for number in range(WAITERS) if number != 4)]
    check_conversation(store, "", id)


def test_a_caller_that_gives_up_does_not_hold_up_those_behind_it(store: Store, gate: Gate) -> None:
    id = store.new().id
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(store.say, id, "first")]
        gate.wait()
        futures.append(threads.submit(store.say, id, "patient", wait=PATIENCE))
        wait_for_waiters(store, id, 1)
        impatient = threads.submit(store.say, id, "impatient", wait=0.05)
        with pytest.raises(ConversationBusy, match="turn 1 is running"):
            impatient.result(PATIENCE)
        futures.append(threads.submit(store.say, id, "last", wait=PATIENCE))
        wait_for_waiters(store, id, 2)
        gate.open()
        for future in futures:
            future.result(PATIENCE)
    assert read_asked(store, id) == ["first", "patient", "last"]


def test_a_waiter_looks_itself_when_no_signal_comes(store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_OWN_TURN_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(LINES, "note_end", lambda _: None)
    id = store.new().id
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(store.say, id, "first")
        gate.wait()
        second = threads.submit(store.say, id, "second", wait=PATIENCE)
        wait_for_waiters(store, id, 1)
        gate.open()
        assert (first.result(PATIENCE).seq, second.result(PATIENCE).seq) == (1, 2)
    LINES.forget_after_fork()


def test_two_stores_of_a_process_share_a_line(opening: Opener, gate: Gate) -> None:
    store, other = opening(), opening()
    id = store.new().id
    key = ConversationKey("", id)
    assert store._engine.name_line(key) == other._engine.name_line(key)
    with ThreadPoolExecutor(2) as threads, count_looks(other) as looks:
        first = threads.submit(store.say, id, "first")
        gate.wait()
        second = threads.submit(other.say, id, "second", wait=PATIENCE)
        wait_for_waiters(other, id)
        gate.open()
        assert (first.result(PATIENCE).seq, second.result(PATIENCE).seq, len(looks)) == (1, 2, 1)


def test_a_signal_that_comes_before_the_wait_is_not_lost() -> None:
    lines = WaitingLines()
    line = ("database", ConversationKey("", "c"))
    lines.note_begin(line)
    place, second, third = Place(line), Place(line), Place(line)
    lines.enter(place)
    lines.note_end(line)
    assert place.signal.done()
    lines.rearm(place)
    assert not place.signal.done()
    lines.enter(second)
    lines.enter(third)
    lines.leave(second)
    assert not third.signal.done()  # it is not the first
    lines.leave(place)
    assert third.signal.done()
    assert lines.is_first(third)
    lines.leave(third)
    lines.leave(third)  # twice does no harm
    assert (lines.has_waiters(line), lines.is_running_here(line), lines.is_first(third)) == (False, False, False)


def test_no_turn_is_left_in_the_lines_when_calls_have_ended(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    store.say(id, "Hi")
    with store.stream(id, "Hi") as reply:
        assert LINES.is_running_here(store._engine.name_line(ConversationKey("", id)))
        next(iter(reply))
    with contextlib.suppress(Exception):
        store.say(id, "Hi", temperature=5)
    assert store.say(id, "Hi", idempotency_key="k") == store.say(id, "Hi", idempotency_key="k")
    assert not LINES.is_running_here(store._engine.name_line(ConversationKey("", id)))


def test_a_very_long_wait_is_allowed(store: Store, gate: Gate) -> None:
    id = store.new().id
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(store.say, id, "first")]
        gate.wait()
        for count, wait in enumerate((float("inf"), 1e10), start=1):
            futures.append(threads.submit(store.say, id, f"{wait}", wait=wait))
            wait_for_waiters(store, id, count)
        gate.open()
        assert [future.result(PATIENCE).seq for future in futures] == [1, 2, 3]


def test_a_caller_that_no_longer_runs_is_dropped_from_the_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_LOST_SECONDS", 0.05)
    id = store.new().id
    lost = Place(store._engine.name_line(ConversationKey("", id)))
    LINES.enter(lost)
    assert store.say(id, "Hi", wait=PATIENCE).text == "You said: Hi"
    assert not LINES.has_waiters(lost.line)


def test_an_interrupt_on_entering_leaves_no_place_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    id = store.new().id
    line = store._engine.name_line(ConversationKey("", id))
    first = Place(line)
    LINES.enter(first)
    enter = WaitingLines.enter

    def enter_and_interrupt(self: WaitingLines, place: Place) -> None:
        enter(self, place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(WaitingLines, "enter", enter_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.say(id, "Hi")
    LINES.leave(first)
    assert not LINES.has_waiters(line)
