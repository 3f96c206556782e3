"""Test what a call costs the database, and what is open or written while the model thinks.

`tests/contract/test_growth.py` tests that the cost does not grow, with up to a hundred thousand messages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text

from convstore import ConversationBusy, Store, TurnFailed
from convstore.leases import heartbeat
from convstore.leases.waiting_lines import LINES
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.invariants import check_all
from tests.faults.driven import engine_of, opened

# The documentation states these numbers.
SAY, COMMITS = {"sqlite": 11, "postgresql": 10}, 2
OF_INDEX = {"sqlite": 2, "postgresql": 1}
"""Statements for the search index in each transaction that stores messages; SAY and APPEND include them."""
WITH_KEY = 1
REPEATED = 1
APPEND, APPEND_COMMITS = {"sqlite": 6, "postgresql": 5}, 1
COMPLETION = {
    "id": "chatcmpl-1",
    "model": "test-model",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}],
}


@dataclass
class Cost:
    """What a call sent to a database, and what came back."""

    statements: list[str] = field(default_factory=list)
    commits: list[bool] = field(default_factory=list)
    """For each commit, whether something was written."""
    rows: int = 0

    @property
    def writes(self) -> list[str]:
        return [statement for statement in self.statements if not statement.startswith(("SELECT", "WITH"))]

    @property
    def writing_commits(self) -> int:
        return sum(self.commits)


def _is_heartbeat() -> bool:
    return threading.current_thread().name == "convstore-heartbeat"


class Meter:
    """Count the statements, commits and rows of an engine, from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._cost: Cost | None = None
        self._thread = threading.local()
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "commit", self._commit)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "checkout", self._watch)
        else:
            event.listen(engine, "after_cursor_execute", self._after)

    def _before(self, _c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("BEGIN"):
            self._thread.wrote = False
            return
        # On a slow machine a turn lasts so long that the heartbeat looks whether it shall stop.
        is_look = _is_heartbeat() and "stop_requested_at" in statement
        if self._cost is not None and not is_look:
            self._cost.statements.append(statement)
        if not statement.startswith(("SELECT", "WITH")):
            self._thread.wrote = True

    def _after(self, _c: object, cursor: Any, statement: str, *_: object) -> None:
        if self._cost is not None and statement.startswith(("SELECT", "WITH")) and not _is_heartbeat():
            self._cost.rows += max(0, cursor.rowcount)

    def _commit(self, _: object) -> None:
        if self._cost is not None:
            self._cost.commits.append(getattr(self._thread, "wrote", False))
        self._thread.wrote = False

    def _watch(self, connection: Any, *_: object) -> None:
        connection.row_factory = self._row

    def _row(self, _cursor: object, row: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._cost is not None and not _is_heartbeat():
            self._cost.rows += 1
        return row

    @contextmanager
    def measure(self) -> Iterator[Cost]:
        cost = self._cost = Cost()
        yield cost
        self._cost = None


@pytest.fixture(params=["sync", "async"])
def store(request: pytest.FixtureRequest, database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with opened(request.param, database_url, chat_server) as store:
        store.list()  # the schema exists now
        yield store
        check_all(engine_of(store))


def _stream(store: Store, id: str, message: str, **options: Any) -> None:
    with store.stream(id, message, **options) as reply:
        for _ in reply:
            pass


def _said(statements: list[str]) -> str:
    return "\n".join(f"{number}. {' '.join(one.split())[:100]}" for number, one in enumerate(statements, 1))


# --- a turn ---


def test_a_turn_costs_a_few_statements_and_two_commits(store: Store, chat_server: ChatServer) -> None:
    meter = Meter(engine_of(store))
    say = SAY[engine_of(store).dialect.name]
    for first in (0, 10, 300):
        messages = [{"role": "user", "content": f"message {number}"} for number in range(first)]
        id = store.new(messages=messages).id
        ways: dict[str, tuple[Callable[[], object], int]] = {
            "say": (lambda id=id: store.say(id, "Hi"), say),  # type: ignore[misc]
            "stream": (lambda id=id: _stream(store, id, "Hi"), say),  # type: ignore[misc]
            "alone": (lambda id=id: store.say(id, "Hi", history=False), say),  # type: ignore[misc]
            "key": (lambda id=id: store.say(id, "Hi", idempotency_key="k"), say + WITH_KEY),  # type: ignore[misc]
            "streamed key": (lambda id=id: _stream(store, id, "Hi", idempotency_key="l"), say + WITH_KEY),  # type: ignore[misc]
            "system": (lambda id=id: store.say(id, "Hi", system="Be brief."), say),  # type: ignore[misc]
        }
        for name, (call, expected) in ways.items():
            # The first turn of a conversation has no past to read.
            less = int(first == 0 and name == "say")
            with meter.measure() as cost:
                call()
            assert len(cost.statements) == expected - less, f"{name}, after {first}:\n{_said(cost.statements)}"
            assert cost.commits == [True] * COMMITS, name
    assert len(chat_server.requests) == 18


def test_a_used_key_costs_one_statement_and_writes_nothing(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    store.say(id, "Hi", idempotency_key="k")
    meter = Meter(engine_of(store))
    with meter.measure() as cost:
        assert store.say(id, "Hi", idempotency_key="k").text == "You said: Hi"
    assert len(cost.statements) == REPEATED, _said(cost.statements)
    assert cost.writes == []
    assert len(chat_server.requests) == 1


def test_a_failed_turn_costs_no_more_than_one_that_succeeds(store: Store, chat_server: ChatServer) -> None:
    id = store.new(system="Be brief.").id
    meter = Meter(engine_of(store))
    chat_server.script(Failure(500))
    with meter.measure() as cost, pytest.raises(TurnFailed):
        store.say(id, "Hi")
    kind = engine_of(store).dialect.name
    assert len(cost.statements) == SAY[kind] - 1 - OF_INDEX[kind], _said(cost.statements)  # no reply to insert
    assert cost.commits == [True] * COMMITS


def test_a_turn_reads_a_few_more_rows_than_it_sends_messages(store: Store, chat_server: ChatServer) -> None:
    meter = Meter(engine_of(store))
    for first in (10, 1000):
        id = store.new(messages=[{"role": "user", "content": f"message {number}"} for number in range(first)]).id
        for history in (True, False):
            with meter.measure() as cost:
                store.say(id, "Hi", history=history)
            sent = len(chat_server.requests[-1].body["messages"])
            assert sent == (store.get(id).length - 1 if history else 1)
            # Besides the path: the rows of two updates; without the history: the head, and the rows stepped over.
            assert cost.rows <= sent + 3, (first, history, cost.rows)


@pytest.mark.parametrize("message", ["Hi", COMPLETION], ids=["text", "completion"])
def test_an_append_costs_a_few_statements_and_one_commit(store: Store, message: Any) -> None:
    meter = Meter(engine_of(store))
    expected = APPEND[engine_of(store).dialect.name]
    for first in (1, 300):
        id = store.new(messages=[{"role": "user", "content": f"message {number}"} for number in range(first)]).id
        with meter.measure() as cost:
            store.append(id, message)
        more = int(message is COMPLETION)  # its own turn
        assert len(cost.statements) == expected + more, _said(cost.statements)
        assert cost.commits == [True] * APPEND_COMMITS
        with meter.measure() as cost:
            store.append(id, message, idempotency_key="k")
        assert len(cost.statements) == expected + 2, _said(cost.statements)
        with meter.measure() as cost:
            store.append(id, message, idempotency_key="k")
        assert cost.writes == []


# --- while the model thinks ---


class Held:
    """A reply that the server holds back until `go` or the end of the block."""

    def __init__(self, server: ChatServer) -> None:
        self.go, self._begun = threading.Event(), threading.Event()
        server.script(Reply("An answer.", hold=self.go, started=self._begun))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.go.set()

    def wait(self) -> None:
        assert self._begun.wait(20), "the request did not come"


@pytest.mark.parametrize("ask", [Store.say, _stream], ids=["say", "stream"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_no_transaction_is_open_while_the_model_thinks(
    kind: str, database_url: str, chat_server: ChatServer, ask: Callable[..., Any]
) -> None:
    def turn() -> None:
        with opened(kind, database_url, chat_server) as store:
            getattr(store, "say")(id, "Hi") if ask is Store.say else ask(store, id, "Hi")  # noqa: B009

    with opened("sync", database_url, chat_server) as other:
        id = other.new().id
        holding = Held(chat_server)
        with ThreadPoolExecutor(1) as thread, holding:
            under_way = thread.submit(turn)
            holding.wait()
            engine = engine_of(other)
            if engine.dialect.name == "postgresql":
                open_ones = text(
                    "SELECT state, query FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid() AND backend_type = 'client backend' "
                    "AND (xact_start IS NOT NULL OR state LIKE 'idle in%')"
                )
                with engine.connect() as connection:
                    assert connection.execute(open_ones).all() == []
            else:
                at_once = create_engine(database_url, connect_args={"timeout": 0, "isolation_level": None})
                with at_once.connect() as connection:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")  # no other connection writes
                    connection.exec_driver_sql("COMMIT")
                    # And none reads: SQLite can move the whole log into the file, and begin a new log.
                    assert connection.exec_driver_sql("PRAGMA wal_checkpoint(RESTART)").one()[0] == 0
                at_once.dispose()
            assert not under_way.done()
            holding.go.set()
            under_way.result(60)
        assert [message["role"] for message in other.history(id)] == ["user", "assistant"]
        check_all(engine)


@pytest.mark.parametrize("holder", ["this process", "another process"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_waiting_caller_only_reads(
    kind: str, holder: str, database_url: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if holder == "another process":
        monkeypatch.setattr(LINES, "is_running_here", lambda _: False)
    with opened("sync", database_url, chat_server) as first, opened(kind, database_url, chat_server) as second:
        id = first.new().id
        holding = Held(chat_server)
        with ThreadPoolExecutor(1) as thread, holding:
            under_way = thread.submit(first.say, id, "Hi")
            holding.wait()
            second.list()  # connected
            meter = Meter(engine_of(second))
            with meter.measure() as cost, pytest.raises(ConversationBusy):
                second.say(id, "And me?", wait=0)
            attempt = len(cost.writes)
            with meter.measure() as cost, pytest.raises(ConversationBusy):
                second.say(id, "And me?", wait=1.0)
            # It tries at the beginning and at the end; in between, it only reads, and only for another process's turn.
            assert attempt <= 2, _said(cost.writes)
            assert len(cost.writes) <= 2 * attempt, _said(cost.writes)
            reads = sum("AS has_expired" in statement for statement in cost.statements)
            assert reads == 2 if holder == "this process" else 3 <= reads <= 30
            claims = ("UPDATE convstore_conversations", "UPDATE public.convstore_conversations")
            assert all(written.startswith(claims) for written in cost.writes)
            holding.go.set()
            under_way.result(60)
        assert second.say(id, "And now?").text == "You said: And now?"


STREAMS = 20
SECONDS = 2.0


def test_each_stream_is_stored_at_most_twice_a_second(database_url: str, chat_server: ChatServer) -> None:
    """It is true for any speed and any number of streams."""
    chat_server.otherwise = lambda _: Reply(pieces=["piece "] * 100, delay=SECONDS / 100)
    with opened("sync", database_url, chat_server) as store:
        ids = [store.new().id for _ in range(STREAMS)]
        writes: list[float] = []
        flushes: dict[str, int] = dict.fromkeys(ids, 0)

        @event.listens_for(engine_of(store), "before_cursor_execute")
        def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            if threading.current_thread().name == "convstore-heartbeat" and not statement.startswith(
                ("SELECT", "BEGIN")
            ):
                writes.append(time.monotonic())
                values = list(parameters.values()) if isinstance(parameters, dict) else list(parameters)
                for id in set(values) & set(ids):
                    flushes[id] += 1

        began = time.monotonic()
        with ThreadPoolExecutor(STREAMS) as threads:
            list(threads.map(lambda id: _stream(store, id, "Hi"), ids))
        took = time.monotonic() - began
        per_second = 1 / heartbeat.FLUSH_SECONDS
        assert per_second == 2
        assert all(1 <= count <= took * per_second + 1 for count in flushes.values()), (took, flushes)
        assert len(writes) <= STREAMS * (took * per_second + 1)
        for id in ids:
            assert store.history(id)[-1]["content"] == "piece " * 100
        check_all(engine_of(store))
