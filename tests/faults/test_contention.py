"""Test many callers of one conversation, in threads, processes and on other hosts: one turn at a time, each once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from convstore import ConversationBusy, ConvstoreError, IdempotencyMismatch, LeaseLost, Store, Turn, TurnStatus
from convstore.db.tables import conversations, deltas
from convstore.leases import heartbeat
from convstore.leases.waiting_lines import Place, WaitingLines
from convstore.testing import ChatServer
from convstore.testing.responses import text_of
from tests.contract.invariants import check_conversation, engine_of
from tests.faults.clients import open_store
from tests.faults.conftest import Opener
from tests.faults.gates import Gate
from tests.processes import PATIENCE, Channel, Zygote

PROCESSES, SAYS = 8, 25
CALLERS = 100
APPENDERS = 24
LEASE = 0.5  # seconds


# --- run in children ---


def say_many(channel: Channel, *, url: str, base_url: str, id: str, name: str, times: int) -> None:
    """Say several messages, one after another, as fast as possible."""
    store = open_store(url, base_url)
    store.get(id)
    channel.send(["ready", None])
    channel.receive()
    for number in range(times):
        said = f"{name}-{number}"
        channel.send(["said", store.say(id, said, wait=120).text == f"You said: {said}"])


def call_in_threads(
    channel: Channel, *, url: str, base_url: str, id: str, calls: list[dict[str, Any]], turned_away: int
) -> None:
    """Make each call in its own thread; report when `turned_away` of them found the conversation busy."""
    store = open_store(url, base_url)
    store.get(id)
    watch_the_turned_away(turned_away, lambda: channel.send(["waiting", None]))
    channel.send(["ready", None])
    channel.receive()
    with ThreadPoolExecutor(len(calls)) as threads:
        for outcome in threads.map(lambda call: outcome_of(store, id, **call), calls):
            channel.send(["outcome", outcome])


def say_once(
    channel: Channel, *, url: str, base_url: str, id: str, text: str, stream: bool = False, lease: float = LEASE
) -> None:
    """Say one message, and report the outcome."""
    heartbeat.FLUSH_SECONDS = 0.01
    store = open_store(url, base_url, lease=lease)
    channel.send(["ready", None])
    channel.send(["outcome", outcome_of(store, id, text=text, stream=stream)])


# --- run in children and in the test ---


def outcome_of(
    store: Store,
    id: str,
    *,
    text: str,
    key: str | None = None,
    wait: float = 60,
    stream: bool = False,
    **parameters: Any,
) -> list[Any]:
    """Return the outcome of a call: number and text of its turn, or the error's name."""
    try:
        if not stream:
            turn = store.say(id, text, idempotency_key=key, wait=wait, **parameters)
        else:
            with store.stream(id, text, idempotency_key=key, wait=wait, **parameters) as reply:
                list(reply)
            turn = reply.turn
    except LeaseLost as error:
        return ["LeaseLost", error.turn.seq, error.turn.text]
    except ConvstoreError as error:
        return [type(error).__name__, None, str(error)]
    return ["ok", turn.seq, turn.text]


def watch_the_turned_away(count: int, then: Callable[[], None]) -> None:
    """Call `then` once, when `count` threads of this process wait, or have read who holds a conversation."""
    seen: set[int] = set()
    guard = threading.Lock()
    enter = WaitingLines.enter

    def note() -> None:
        with guard:
            new = threading.get_ident() not in seen
            seen.add(threading.get_ident())
            enough = new and len(seen) == count
        if enough:
            then()

    def after(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and "AS has_expired" in statement:
            note()

    event.listen(Engine, "after_cursor_execute", after)
    _listening.append(after)

    def enter_and_note(self: WaitingLines, place: Place) -> None:
        enter(self, place)
        note()

    WaitingLines.enter = enter_and_note  # type: ignore[method-assign]


_listening: list[Callable[..., None]] = []


@pytest.fixture(autouse=True)
def keep_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what `watch_the_turned_away` replaces."""
    monkeypatch.setattr(WaitingLines, "enter", WaitingLines.enter)
    yield
    while _listening:
        event.remove(Engine, "after_cursor_execute", _listening.pop())


@pytest.fixture
def store(opening: Opener) -> Store:
    return opening()


def pairs(store: Store, id: str) -> list[tuple[str, str]]:
    """Return each user's message of a conversation with the message after it."""
    messages = store.history(id)
    assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
    texts = [message["content"] for message in messages]
    return list(zip(texts[::2], texts[1::2], strict=True))


def lease_of(store: Store, id: str) -> datetime | None:
    with engine_of(store).connect() as connection:
        return connection.scalar(select(conversations.c.lease_expires_at).where(conversations.c.id == id))


def wait_past_lease(store: Store, id: str) -> datetime:
    """Sleep until a lease that is not renewed has expired, and return the time.

    A renewal that was under way when its process was stopped may still be committed.
    """
    expires = lease_of(store, id)
    for _ in range(2):
        assert expires is not None
        time.sleep(max(0.0, (expires - datetime.now(UTC)).total_seconds()) + 0.05)
        found = lease_of(store, id)
        if found == expires:
            break
        expires = found
    else:
        pytest.fail("the lease is renewed")
    return expires


# --- one at a time ---


def test_the_turns_of_many_processes_never_interleave(
    zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id = store.new().id
    children = [
        zygote.start(say_many, url=database_url, base_url=chat_server.url, id=id, name=f"process-{number}", times=SAYS)
        for number in range(PROCESSES)
    ]
    for child in children:
        child.receive("ready")
    began = time.monotonic()
    for child in children:
        child.send("go")
    for child in children:
        assert [child.receive("said") for _ in range(SAYS)] == [True] * SAYS
        assert child.wait() == 0
    took = time.monotonic() - began

    asked = pairs(store, id)
    assert all(answer == f"You said: {question}" for question, answer in asked)
    for number in range(PROCESSES):
        own = [question for question, _ in asked if question.startswith(f"process-{number}-")]
        assert own == [f"process-{number}-{said}" for said in range(SAYS)]
    assert len(asked) == PROCESSES * SAYS
    turns = store.turns(id, limit=None)
    assert [turn.seq for turn in turns] == list(range(1, PROCESSES * SAYS + 1))
    assert {turn.status for turn in turns} == {TurnStatus.COMPLETED}
    assert len(chat_server.requests) == PROCESSES * SAYS
    for number, request in enumerate(chat_server.requests):  # each request held everything before it
        assert len(request.body["messages"]) == 2 * number + 1
    check_conversation(store, "", id)
    print(f"\n{PROCESSES} processes x {SAYS} says on one conversation: {len(asked)} whole turns in {took:.1f} s")


def test_a_caller_that_does_not_wait_is_refused_and_stores_nothing(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Callable[..., Future[Turn]]
) -> None:
    id = store.new().id
    gate = Gate(chat_server, lambda text: text == "slow")
    slow = elsewhere(store.say, id, "slow")
    gate.wait()
    other = opening()
    with pytest.raises(ConversationBusy):
        other.say(id, "impatient", wait=0)
    began = time.monotonic()
    with pytest.raises(ConversationBusy):
        other.append(id, "impatient", wait=0.2)
    assert time.monotonic() - began >= 0.2
    gate.open()
    assert slow.result(PATIENCE).text == "You said: slow"
    assert pairs(store, id) == [("slow", "You said: slow")]
    assert [turn.seq for turn in store.turns(id)] == [1]
    assert len(chat_server.requests) == 1


def test_a_caller_that_waits_comes_next(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Callable[..., Future[Any]]
) -> None:
    id = store.new().id
    gate = Gate(chat_server, lambda text: text == "slow")
    slow = elsewhere(store.say, id, "slow")
    gate.wait()
    turned_away = threading.Event()
    watch_the_turned_away(2, turned_away.set)
    other = opening()
    patient = [elsewhere(other.say, id, "patient"), elsewhere(other.append, id, {"role": "user", "content": "added"})]
    assert turned_away.wait(PATIENCE)
    assert len(chat_server.requests) == 1
    assert not any(future.done() for future in patient)
    gate.open()
    assert slow.result(PATIENCE).text == "You said: slow"
    assert patient[0].result(PATIENCE).text == "You said: patient"
    patient[1].result(PATIENCE)
    said = [message["content"] for message in store.history(id)]
    assert said[:2] == ["slow", "You said: slow"]
    assert sorted(said[2:]) == ["You said: patient", "added", "patient"]
    assert said.index("You said: patient") == said.index("patient") + 1
    check_conversation(store, "", id)


# --- once ---


def run_callers(
    zygote: Zygote, url: str, server: ChatServer, id: str, calls: list[dict[str, Any]], gate: Gate, holders: int = 1
) -> list[list[Any]]:
    """Make calls from threads of four processes; the model answers when all except `holders` of them wait."""
    groups = [calls[number::4] for number in range(4)]
    # The holder is in one of the processes, and never reads who holds the conversation: it expects one less.
    children = [
        zygote.start(
            call_in_threads, url=url, base_url=server.url, id=id, calls=group, turned_away=len(group) - holders
        )
        for group in groups
    ]
    for child in children:
        child.receive("ready")
    for child in children:
        child.send("go")
    gate.wait()
    for child in children:
        child.receive("waiting")
    gate.open()
    outcomes: list[list[Any]] = []
    for child in children:
        outcomes.extend(value for kind, value in child.rest() if kind == "outcome")
        assert child.wait() == 0
    return outcomes


def test_a_hundred_callers_with_one_key_ask_the_model_once(
    zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id = store.new().id
    gate = Gate(chat_server, lambda text: True)
    calls = [{"text": "What is it?", "key": "one", "stream": number % 3 == 0} for number in range(CALLERS)]
    outcomes = run_callers(zygote, database_url, chat_server, id, calls, gate)
    assert outcomes == [["ok", 1, "You said: What is it?"]] * CALLERS
    assert len(chat_server.requests) == 1
    assert pairs(store, id) == [("What is it?", "You said: What is it?")]
    assert store.say(id, "What is it?", idempotency_key="one") == store.turns(id)[0]
    assert len(chat_server.requests) == 1
    check_conversation(store, "", id)


def test_two_keys_are_two_requests(zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer) -> None:
    id = store.new().id
    gate = Gate(chat_server, lambda text: True)
    calls = [{"text": "The same", "key": f"key-{number % 2}"} for number in range(24)]
    outcomes = run_callers(zygote, database_url, chat_server, id, calls, gate)
    assert {kind for kind, *_ in outcomes} == {"ok"}
    assert sorted(seq for _, seq, _ in outcomes) == [1] * 12 + [2] * 12
    assert len(chat_server.requests) == 2
    assert pairs(store, id) == [("The same", "You said: The same")] * 2
    check_conversation(store, "", id)


def test_a_key_used_for_other_input_is_refused_while_it_runs_and_afterwards(
    zygote: Zygote,
    store: Store,
    database_url: str,
    chat_server: ChatServer,
    elsewhere: Callable[..., Future[Any]],
) -> None:
    id = store.new(temperature=0.5).id
    gate = Gate(chat_server, lambda text: True)
    first = elsewhere(store.say, id, "This", idempotency_key="k")
    gate.wait()
    others: list[dict[str, Any]] = [
        {"text": "That", "key": "k"},
        {"text": "This", "key": "k", "temperature": 0.7},
        {"text": "That", "key": "k", "stream": True},
        {"text": "This", "key": "k", "system": "Be brief."},
    ]

    def refused_everywhere() -> None:
        child = zygote.start(
            call_in_threads, url=database_url, base_url=chat_server.url, id=id, calls=others, turned_away=99
        )
        child.receive("ready")
        child.send("go")
        outcomes = [value for kind, value in child.rest() if kind == "outcome"]
        outcomes += [outcome_of(store, id, **other) for other in others]
        assert [kind for kind, *_ in outcomes] == ["IdempotencyMismatch"] * len(others) * 2
        with pytest.raises(IdempotencyMismatch):
            store.append(id, "This", idempotency_key="k")

    refused_everywhere()
    gate.open()
    assert first.result(PATIENCE).text == "You said: This"
    refused_everywhere()
    assert len(chat_server.requests) == 1
    assert pairs(store, id) == [("This", "You said: This")]
    # A key is valid in its conversation only.
    assert store.say(store.new().id, "That", idempotency_key="k").text == "You said: That"


def test_many_callers_append_once_with_one_key(store: Store, opening: Opener, chat_server: ChatServer) -> None:
    stores = [store, *(opening() for _ in range(3))]
    for number in range(5):
        id = store.new().id
        together = threading.Barrier(APPENDERS)

        def append(caller: int, id: str = id, together: threading.Barrier = together) -> list[int]:
            together.wait(PATIENCE)
            return [record.seq for record in stores[caller % 4].append(id, "Once", idempotency_key="k")]

        with ThreadPoolExecutor(APPENDERS) as threads:
            assert list(threads.map(append, range(APPENDERS))) == [[1]] * APPENDERS, number
        assert [message["content"] for message in store.history(id)] == ["Once"]
        assert [turn.status for turn in store.turns(id)] == [TurnStatus.COMPLETED]


@pytest.mark.parametrize("how", ["say", "append"])
def test_a_key_that_is_used_between_lookup_and_claim_is_not_used_twice(
    how: str, store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Callable[..., Future[Any]]
) -> None:
    id = store.new().id
    late = opening()
    looked, go = threading.Event(), threading.Event()

    @event.listens_for(engine_of(late), "after_cursor_execute")
    def hold_after_the_look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "idempotency_key =" in statement and not looked.is_set():
            looked.set()
            assert go.wait(PATIENCE)

    def call(store: Store) -> Any:
        if how == "say":
            return store.say(id, "Once", idempotency_key="k")
        return store.append(id, "Once", idempotency_key="k")

    second = elsewhere(call, late)
    assert looked.wait(PATIENCE)
    first = elsewhere(call, store)
    if engine_of(store).dialect.name == "postgresql":
        first.result(PATIENCE)  # on SQLite it cannot begin
    go.set()
    assert first.result(PATIENCE) == second.result(PATIENCE)
    assert len(chat_server.requests) == (how == "say")
    assert len(store.turns(id)) == 1
    if how == "say":
        check_conversation(store, "", id)


# --- slow, dead and late callers ---


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_call_is_not_taken_over_while_its_process_lives(
    stream: bool,
    zygote: Zygote,
    store: Store,
    database_url: str,
    chat_server: ChatServer,
    elsewhere: Callable[..., Future[Any]],
) -> None:
    id = store.new().id
    gate = Gate(chat_server, lambda text: text == "slow")
    child = zygote.start(say_once, url=database_url, base_url=chat_server.url, id=id, text="slow", stream=stream)
    child.receive("ready")
    gate.wait()
    child.signal(signal.SIGSTOP)  # no more heartbeats
    wait_past_lease(store, id)
    with pytest.raises(ConversationBusy):
        store.say(id, "impatient", wait=0)
    turned_away = threading.Event()
    watch_the_turned_away(1, turned_away.set)
    patient = elsewhere(store.say, id, "patient")
    assert turned_away.wait(PATIENCE)
    wait_past_lease(store, id)  # and some reads more
    assert not patient.done()
    child.signal(signal.SIGCONT)
    gate.open()
    assert child.receive("outcome") == ["ok", 1, "You said: slow"]
    assert child.wait() == 0
    assert patient.result(PATIENCE).seq == 2
    assert pairs(store, id) == [("slow", "You said: slow"), ("patient", "You said: patient")]
    check_conversation(store, "", id)


def test_a_live_call_keeps_its_lease_for_any_time(
    zygote: Zygote, other_host: Path, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id = store.new().id
    gate = Gate(chat_server, lambda text: text == "slow")
    child = zygote.start(say_once, host=other_host, url=database_url, base_url=chat_server.url, id=id, text="slow")
    child.receive("ready")
    gate.wait()
    first = lease_of(store, id)
    assert first is not None
    with pytest.raises(ConversationBusy):  # three lease spans
        store.say(id, "impatient", wait=3 * LEASE)
    renewed = lease_of(store, id)
    assert renewed is not None
    assert renewed > first
    gate.open()
    assert child.receive("outcome") == ["ok", 1, "You said: slow"]
    assert pairs(store, id) == [("slow", "You said: slow")]


def test_a_process_that_dies_on_this_host_is_taken_over_at_once(
    zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id = store.new().id
    gate = Gate(chat_server, lambda text: text == "doomed")
    child = zygote.start(say_once, url=database_url, base_url=chat_server.url, id=id, text="doomed", lease=600.0)
    child.receive("ready")
    gate.wait()
    with pytest.raises(ConversationBusy):
        store.say(id, "next", wait=0)
    child.kill()
    assert store.say(id, "next", wait=0).text == "You said: next"
    assert pairs(store, id) == [("next", "You said: next")]
    check_conversation(store, "", id)


def test_a_process_that_dies_on_another_host_is_taken_over_after_its_lease(
    zygote: Zygote, other_host: Path, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id = store.new().id
    gate = Gate(chat_server, lambda text: text == "doomed")
    child = zygote.start(
        say_once, host=other_host, url=database_url, base_url=chat_server.url, id=id, text="doomed", lease=2.0
    )
    child.receive("ready")
    gate.wait()
    child.kill()
    expires = lease_of(store, id)
    assert expires is not None
    with pytest.raises(ConversationBusy):
        store.say(id, "impatient", wait=0)
    turn = store.say(id, "next", wait=PATIENCE)
    assert turn.started_at > expires
    assert (turn.started_at - expires).total_seconds() < 1.0
    doomed = store.turns(id)[0]
    assert doomed.status is TurnStatus.INTERRUPTED
    assert doomed.error is not None
    assert doomed.error["type"] == "Abandoned"
    assert pairs(store, id) == [("next", "You said: next")]
    check_conversation(store, "", id)


@pytest.mark.parametrize("stream", [False, True])
def test_a_late_reply_is_stored_off_the_path(
    stream: bool,
    zygote: Zygote,
    other_host: Path,
    store: Store,
    database_url: str,
    chat_server: ChatServer,
) -> None:
    id = store.new().id
    gate = Gate(chat_server, lambda text: text == "late", hold_after=2)
    child = zygote.start(
        say_once, host=other_host, url=database_url, base_url=chat_server.url, id=id, text="late", stream=stream
    )
    child.receive("ready")
    gate.wait()
    if stream:
        wait_for_deltas(store, id)
    child.signal(signal.SIGSTOP)
    wait_past_lease(store, id)
    assert store.say(id, "next").text == "You said: next"
    taken = store.turns(id)[0]
    assert taken.status is TurnStatus.INTERRUPTED
    assert taken.text == ("You said" if stream else "")
    child.signal(signal.SIGCONT)
    gate.open()
    kind, seq, text = child.receive("outcome")
    assert (kind, seq) == ("LeaseLost", 1)
    assert child.wait() == 0
    assert text.startswith("You said") if stream else text == "You said: late"
    assert pairs(store, id) == [("next", "You said: next")]
    late = store.turns(id)[0]
    assert late.status is TurnStatus.INTERRUPTED
    assert late.text == text
    assert store.say(id, "after", wait=0).text == "You said: after"
    assert [text_of(message) for message in chat_server.requests[-1].body["messages"]] == [
        "next",
        "You said: next",
        "after",
    ]
    check_conversation(store, "", id)
    with engine_of(store).connect() as connection:
        assert connection.execute(select(deltas)).all() == []


def wait_for_deltas(store: Store, id: str) -> None:
    """Wait until the sent part of a stream is stored."""
    said = ""
    for piece in store.follow(id):
        said += piece
        if said == "You said":
            return
    raise AssertionError(f"the stream ended with {said!r}")
