"""Test failures of PostgreSQL: restarts, broken connections at any statement, no free connection, locked rows.

What is durable stays, nothing is stored twice, and a reply of the model is stored or is in the error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, event, make_url, select, text

from convstore import ConversationBusy, DatabaseUnavailable, ReplyNotStored, Store, Turn, TurnStatus
from convstore.db import transactions
from convstore.db.schema_upgrade import upgrade
from convstore.db.tables import conversations, turns
from convstore.db.unit_of_work import UnitOfWork
from convstore.testing import ChatServer, Reply
from tests.contract.invariants import check_all, check_conversation
from tests.faults.clients import open_store
from tests.faults.driven import client, engine_of, opened
from tests.faults.restartable import Restartable, restartable_server
from tests.postgres import new_database
from tests.processes import Channel, Zygote

ASKED = {"role": "user", "content": "Hi"}
ANSWERED = {"role": "assistant", "content": "An answer."}
NOTE = {"role": "user", "content": "A note."}
PIECES = ("An ", "answer.")


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, postgres_url: str, chat_server: ChatServer) -> Iterator[Store]:
    chat_server.otherwise = lambda _: Reply(pieces=PIECES)
    with opened(kind, postgres_url, chat_server) as store:
        yield store
        check_all(engine_of(store))


def _stream(store: Store, id: str, **options: Any) -> Turn:
    with store.stream(id, "Hi", **options) as reply:
        for _ in reply:
            pass
    return reply.turn


def _say(store: Store, id: str, **options: Any) -> Turn:
    return store.say(id, "Hi", **options)


Ask = Callable[..., Turn]
ASK = pytest.mark.parametrize("ask", [_say, _stream], ids=["say", "stream"])


class UnderWay:
    """A turn in another thread; the server holds its reply back until `let_go`."""

    def __init__(self, server: ChatServer, thread: ThreadPoolExecutor, work: Callable[[], Turn], after: int) -> None:
        self._go, begun = threading.Event(), threading.Event()
        server.script(Reply(pieces=PIECES, hold=self._go, hold_after=after, started=begun))
        self.result: Future[Turn] = thread.submit(work)
        assert begun.wait(20), self.result.exception()

    def let_go(self) -> None:
        self._go.set()


Begin = Callable[..., UnderWay]


@pytest.fixture
def under_way(chat_server: ChatServer) -> Iterator[Begin]:
    """Begin a turn, and return when the model has been called."""
    made = []
    with ThreadPoolExecutor(4) as threads:

        def begin(ask: Ask, store: Store, id: str, **options: Any) -> UnderWay:
            after = 1 if ask is _stream else 0
            one = UnderWay(chat_server, threads, lambda: ask(store, id, **options), after)
            made.append(one)
            return one

        yield begin
        for one in made:
            one.let_go()


# --- a server that restarts ---


@pytest.fixture(scope="module")
def server() -> Iterator[Restartable]:
    with restartable_server() as server:
        yield server


@pytest.fixture(scope="module")
def _template(server: Restartable) -> Iterator[str]:
    with new_database(server.url) as url:
        upgrade(url)
        yield make_url(url).database or ""


@pytest.fixture
def restarted_url(server: Restartable, _template: str) -> Iterator[str]:
    """Yield the URL of a database on a server that may be restarted."""
    with new_database(server.url, _template) as url:
        yield url


@contextmanager
def _down(server: Restartable) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


def _tries(engine: Engine) -> threading.Semaphore:
    """Return a semaphore that is released at every try to connect."""
    tried = threading.Semaphore(0)
    event.listen(engine, "do_connect", lambda *_: tried.release())
    return tried


@ASK
def test_a_reply_that_comes_while_the_server_is_down_is_stored_when_it_is_back(
    kind: str, ask: Ask, restarted_url: str, server: Restartable, chat_server: ChatServer, under_way: Begin
) -> None:
    with opened(kind, restarted_url, chat_server) as store:
        id = store.new().id
        turn = under_way(ask, store, id)
        tried = _tries(engine_of(store))
        with _down(server):
            turn.let_go()
            for _ in range(2):
                assert tried.acquire(timeout=60)  # and again after a pause
        ended = turn.result.result(60)
        assert (ended.status, ended.text) == ("completed", "An answer.")
        assert store.history(id) == [ASKED, ANSWERED]
        assert [turn.status for turn in store.turns(id)] == [TurnStatus.COMPLETED]
        check_conversation(engine_of(store), "", id)
    assert len(chat_server.requests) == 1


@ASK
def test_a_reply_that_cannot_be_stored_in_time_is_in_the_error(
    kind: str,
    ask: Ask,
    restarted_url: str,
    server: Restartable,
    chat_server: ChatServer,
    under_way: Begin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transactions, "END_RETRY_SECONDS", 0.3)
    with opened(kind, restarted_url, chat_server) as store:
        id = store.new().id
        turn = under_way(ask, store, id)
        with _down(server):
            turn.let_go()
            with pytest.raises(ReplyNotStored) as caught:
                turn.result.result(60)
            assert caught.value.completion.messages == (ANSWERED,)
            assert caught.value.completion.finish_reason == "stop"
            assert isinstance(caught.value.__cause__, DatabaseUnavailable)
            assert id in str(caught.value)
        assert store.history(id) == []
        check_conversation(engine_of(store), "", id, running=True)
        # The same process knows that no one works on that turn.
        again = store.say(id, "Hi", wait=0)
        assert again.status is TurnStatus.COMPLETED
        assert [turn.status for turn in store.turns(id)] == [TurnStatus.INTERRUPTED, TurnStatus.COMPLETED]
        check_conversation(engine_of(store), "", id)


def say_there(channel: Channel, *, url: str, base_url: str, id: str) -> None:
    """Say something at once, in a child."""
    channel.send(["said", open_store(url, base_url).say(id, "Hi", wait=0).text])


def test_another_process_knows_at_once_that_a_turn_without_a_stored_end_is_over(
    zygote: Zygote,
    restarted_url: str,
    server: Restartable,
    chat_server: ChatServer,
    under_way: Begin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transactions, "END_RETRY_SECONDS", 0.1)
    with opened("sync", restarted_url, chat_server) as store:
        lost, other = store.new().id, store.new().id
        turn = under_way(_say, store, lost)
        with _down(server):
            turn.let_go()
            with pytest.raises(ReplyNotStored):
                turn.result.result(60)
        still = under_way(_say, store, other)
        arguments: dict[str, Any] = {"url": restarted_url, "base_url": chat_server.url}
        child = zygote.start(say_there, id=lost, **arguments)
        assert child.receive("said") == "You said: Hi"
        assert child.wait() == 0
        # And that this process lives, and works on another turn.
        child = zygote.start(say_there, id=other, **arguments)
        kind, said = child._channel.receive()
        assert kind == "failed"
        assert "ConversationBusy" in said
        still.let_go()
        assert still.result.result(60).text == "An answer."
        check_all(engine_of(store))


@pytest.mark.parametrize(
    ("kind", "engine"), [("sync", "own"), ("sync", "caller's"), ("async", "own")], indirect=["kind"]
)
def test_a_server_that_was_restarted_between_two_calls_is_not_noticed(
    kind: str, restarted_url: str, server: Restartable, chat_server: ChatServer, engine: str
) -> None:
    callers = create_engine(restarted_url) if engine == "caller's" else None
    options: dict[str, Any] = {"engine": callers} if callers is not None else {}
    with opened(kind, None if callers else restarted_url, chat_server, **options) as store:  # type: ignore[arg-type]
        id = store.new().id
        calls: list[Callable[[], object]] = [
            lambda: store.say(id, "Hi"),
            lambda: _stream(store, id),
            lambda: store.append(id, NOTE),
            lambda: store.set(id, title="Another"),
            store.new,
            lambda: store.history(id),
            store.list,
            lambda: store.turns(id),
        ]
        # The pool holds several connections, all broken.
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: engine_of(store).connect().close(), range(8)))
        for call in calls:
            server.restart()
            call()
        assert [message["role"] for message in store.history(id)] == ["user", "assistant"] * 2 + ["user"]
        check_all(engine_of(store))
    if callers is not None:
        callers.dispose()


# --- a backend terminated at every statement ---


class Saboteur:
    """Terminate a connection's backend at one point: before a statement, before a commit or after it."""

    def __init__(self, engine: Engine) -> None:
        self.points: list[str] = []
        self.strike_at: int | None = None
        self.struck = False
        url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._admin = psycopg.connect(url, autocommit=True)
        self._commit = engine.dialect.do_commit
        event.listen(engine, "before_cursor_execute", self._before)
        engine.dialect.do_commit = self._do_commit  # type: ignore[method-assign, assignment]

    def watch(self, strike_at: int | None) -> None:
        self.points, self.strike_at, self.struck = [], strike_at, False

    def close(self) -> None:
        self.strike_at = None
        self._admin.close()

    def _before(self, connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        self._at(connection.connection.driver_connection, "before " + " ".join(statement.split())[:40])

    def _do_commit(self, connection: Any) -> None:
        self._at(connection.driver_connection, "before COMMIT")
        self._commit(connection)
        # The server has committed, and its answer is lost.
        if self._at(connection.driver_connection, "after COMMIT"):
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    def _terminate(self, pid: int) -> None:
        """Terminate a backend, and wait for its end. PostgreSQL's own wait looks only ten times a second."""
        assert self._admin.execute("SELECT pg_terminate_backend(%s)", [pid]).fetchone() == (True,)
        deadline = time.monotonic() + 10
        while self._admin.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() is not None:
            assert time.monotonic() < deadline, "the backend goes on"
            time.sleep(0.002)

    def _at(self, connection: Any, point: str) -> bool:
        if threading.current_thread().name == "convstore-heartbeat":
            return False
        strikes = len(self.points) == self.strike_at
        self.points.append(point)
        if strikes:
            self.struck = True
            pid = connection.info.backend_pid
            self._terminate(pid)
            if point == "after COMMIT":
                with pytest.raises(psycopg.OperationalError):
                    connection.execute("SELECT 1")  # now the client knows too
        return strikes


@pytest.fixture
def saboteur(store: Store) -> Iterator[Saboteur]:
    store.list()
    saboteur = Saboteur(engine_of(store))
    yield saboteur
    saboteur.close()


@dataclass(frozen=True)
class Operation:
    """An operation on a conversation with one turn, and its preparation."""

    perform: Callable[[Store, str], object]
    prepare: Callable[[Store, str], object] = lambda store, id: None
    repeatable: bool = True
    """True if doing it twice equals doing it once; else the caller gets an error if a commit's answer is lost."""


OPERATIONS = {
    "new": Operation(lambda store, id: store.new(id=f"{id}-new", messages=[NOTE])),
    "say": Operation(lambda store, id: _say(store, id, wait=0)),
    "stream": Operation(lambda store, id: _stream(store, id, wait=0)),
    "keyed say": Operation(lambda store, id: _say(store, id, wait=0, idempotency_key="k")),
    "retry": Operation(lambda store, id: store.retry(id, wait=0)),
    "append": Operation(lambda store, id: store.append(id, NOTE), repeatable=False),
    "keyed append": Operation(lambda store, id: store.append(id, NOTE, idempotency_key="k")),
    "set": Operation(lambda store, id: store.set(id, title="Another")),
    "history": Operation(lambda store, id: store.history(id)),
    "undo": Operation(lambda store, id: store.undo(id), repeatable=False),
    "redo": Operation(lambda store, id: store.redo(id), lambda store, id: store.undo(id), repeatable=False),
    "checkout": Operation(lambda store, id: store.checkout(id, 1), repeatable=False),
    "fork": Operation(lambda store, id: store.fork(id, new_id=f"{id}-new"), repeatable=False),
    "edit": Operation(lambda store, id: store.edit(id, 2, "Otherwise", wait=0)),
    "complete": Operation(lambda store, id: store.complete(id, wait=0), lambda store, id: store.append(id, NOTE)),
    "pin": Operation(lambda store, id: store.pin(id, 2)),
    "compact": Operation(lambda store, id: store.compact(id, keep_last=0)),
    "drop": Operation(
        lambda store, id: store.drop_summary(id), lambda store, id: store.compact(id, keep_last=0), repeatable=False
    ),
    "delete": Operation(lambda store, id: store.delete(id), repeatable=False),
    "restore": Operation(lambda store, id: store.restore(id), lambda store, id: store.delete(id), repeatable=False),
}
EACH = [
    *(("sync", operation) for operation in OPERATIONS),
    *(("async", operation) for operation in ("say", "stream", "edit", "compact")),
]
"""The database work is the same for both; only turns have two runners."""


@pytest.mark.parametrize(("kind", "operation"), EACH, indirect=["kind"])
def test_a_backend_terminated_at_any_statement_loses_nothing_and_doubles_nothing(
    store: Store, saboteur: Saboteur, chat_server: ChatServer, operation: str
) -> None:
    doing = OPERATIONS[operation]

    def prepared(name: str) -> str:
        id = store.new(id=name, system="Be brief.").id
        store.say(id, "Before")
        doing.prepare(store, id)
        return id

    def found(id: str) -> list[object]:
        listed = {conversation.id: conversation for conversation in store.list(limit=None)}
        made = [listed[f"{id}-new"].length] if f"{id}-new" in listed else []
        if id not in listed:
            return ["deleted", made]
        summary = store.summary(id)
        stands_in = (summary.turn, summary.text) if summary is not None else None
        return [listed[id].title, store.history(id, exact=True), made, listed[id].pins, stands_in]

    id = prepared("unharmed")
    calls = len(chat_server.requests)
    saboteur.watch(None)
    doing.perform(store, id)
    points = list(saboteur.points)
    whole = found(id)
    calls = len(chat_server.requests) - calls
    assert len(points) >= 3
    for number, point in enumerate(points):
        id = prepared(f"struck-{number}")
        before = len(chat_server.requests)
        untouched = found(id)
        saboteur.watch(number)
        where = f"{operation}: {point} ({number})"
        is_unknown = not doing.repeatable and "COMMIT" in point
        try:
            doing.perform(store, id)
        except DatabaseUnavailable:
            # Nobody knows whether it was committed: so it is not repeated, and the caller gets an error.
            assert is_unknown, where
        else:
            assert not is_unknown, where
        assert saboteur.struck, where
        saboteur.watch(None)
        expected = untouched if is_unknown and point == "before COMMIT" else whole
        assert found(id) == expected, where
        assert len(chat_server.requests) - before == calls, where
        if expected[0] == "deleted":
            store.restore(id)
        check_conversation(engine_of(store), "", id)
        # If the begin was committed and the caller could not know it, the turn is stored as interrupted.
        statuses = [turn.status for turn in store.turns(id) if turn.status is not TurnStatus.COMPLETED]
        assert statuses in ([], [TurnStatus.INTERRUPTED]), where
        written = [turn for turn in store.turns(id) if turn.purpose == "summary"]
        assert len(written) == (operation in ("compact", "drop")), where
        assert store.say(id, "And now?", wait=0).status is TurnStatus.COMPLETED
    check_all(engine_of(store))
    print(f"\n{operation}: terminated at {len(points)} points")


# --- locks of other connections ---


@contextmanager
def _row_held(engine: Engine, table: Any, *where: Any) -> Iterator[Connection]:
    """Hold a row in another transaction."""
    with engine.connect() as connection, connection.begin():
        assert connection.execute(select(table).where(*where).with_for_update()).one()
        yield connection


@contextmanager
def _held_by_others(store: Store, id: str) -> Iterator[Connection]:
    others = create_engine(engine_of(store).url)
    with _row_held(others, conversations, conversations.c.id == id) as connection:
        yield connection
    others.dispose()


def test_a_conversation_with_a_locked_row_is_busy_while_the_caller_waits(store: Store) -> None:
    id = store.new().id
    calls: dict[str, Callable[[float], object]] = {
        "say": lambda wait: store.say(id, "Hi", wait=wait),
        "stream": lambda wait: _stream(store, id, wait=wait),
        "append": lambda wait: store.append(id, NOTE, wait=wait),
    }
    with _held_by_others(store, id):
        for name, call in calls.items():
            for wait in (0.0, 0.4):
                began = time.monotonic()
                with pytest.raises(ConversationBusy):
                    call(wait)
                assert wait <= time.monotonic() - began < wait + 2, name
        assert store.history(id) == []  # reading does not wait
    for call in calls.values():
        call(0.0)
    assert [message["role"] for message in store.history(id)] == ["user", "assistant"] * 2 + ["user"]


def test_a_waiting_caller_goes_on_when_the_row_is_unlocked(store: Store) -> None:
    id = store.new().id
    with ThreadPoolExecutor(1) as thread:
        with _held_by_others(store, id):
            tried = threading.Event()

            @event.listens_for(engine_of(store), "rollback")
            def note(_: Connection) -> None:
                tried.set()

            said = thread.submit(store.say, id, "Hi", wait=20)
            assert tried.wait(60)
        assert said.result(60).text == "An answer."


def _wait_for_a_lock(connection: Connection) -> None:
    """Wait until a connection waits for a lock in this database."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 10
    while not connection.scalar(waiting):
        assert time.monotonic() < deadline, "nobody waits"
        connection.execute(text("SELECT pg_stat_clear_snapshot()"))


@ASK
def test_a_reply_waits_for_a_locked_row(store: Store, ask: Ask, under_way: Begin) -> None:
    id = store.new().id
    turn = under_way(ask, store, id)
    with _held_by_others(store, id) as holder:
        turn.let_go()
        _wait_for_a_lock(holder)
    assert turn.result.result(60).status is TurnStatus.COMPLETED
    assert store.history(id) == [ASKED, ANSWERED]


def test_no_call_waits_for_ever_for_a_row(
    postgres_url: str, chat_server: ChatServer, under_way: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "END_RETRY_SECONDS", 0.1)
    with opened("sync", postgres_url, chat_server) as store:
        id = store.new().id
        turn = under_way(_say, store, id)
        with _held_by_others(store, id):
            turn.let_go()
            with pytest.raises(ReplyNotStored, match="lock") as caught:
                turn.result.result(60)
            assert caught.value.completion.messages == (ANSWERED,)
        assert store.say(id, "Hi", wait=0).text == "You said: Hi"
        assert store.history(id) == [ASKED, {"role": "assistant", "content": "You said: Hi"}]
        check_all(engine_of(store))


def test_a_deadlock_is_tried_again(store: Store, under_way: Begin) -> None:
    id = store.new().id
    turn = under_way(_say, store, id)
    errors: list[str] = []

    @event.listens_for(engine_of(store), "handle_error")
    def note(context: Any) -> None:
        errors.append(context.original_exception.sqlstate)

    others = create_engine(engine_of(store).url)
    with _row_held(others, turns, turns.c.conversation_id == id) as holder:
        holder.execute(text("SET LOCAL deadlock_timeout = '20s'"))  # so that PostgreSQL chooses the store's transaction
        turn.let_go()
        _wait_for_a_lock(holder)  # it holds the conversation, and waits for the turn
        holder.execute(select(conversations).where(conversations.c.id == id).with_for_update())
    others.dispose()
    assert turn.result.result(60).status is TurnStatus.COMPLETED
    assert set(errors) == {"40P01"}  # on a slow machine, the repeated transaction may meet the same lock again
    assert store.history(id) == [ASKED, ANSWERED]
    assert [turn.status for turn in store.turns(id)] == [TurnStatus.COMPLETED]


TRIGGER = """
CREATE SEQUENCE troubles;
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- What a sequence has given is given, also when the transaction is rolled back.
    IF nextval('troubles') <= TG_ARGV[0]::int THEN
        RAISE EXCEPTION 'trouble' USING ERRCODE = TG_ARGV[1];
    END IF;
    RETURN NEW;
END $$;
"""


@pytest.mark.parametrize("state", ["40001", "40P01"])
@pytest.mark.parametrize(
    "when",
    [
        "BEFORE UPDATE ON convstore_conversations",
        "AFTER INSERT ON convstore_messages",
        "AFTER INSERT ON convstore_turns",
        "AFTER UPDATE ON convstore_turns",
    ],
)
def test_a_serialization_failure_is_tried_again(store: Store, chat_server: ChatServer, when: str, state: str) -> None:
    id = store.new().id
    with engine_of(store).begin() as connection:
        connection.exec_driver_sql(TRIGGER)
        connection.exec_driver_sql(f"CREATE TRIGGER t {when} FOR EACH ROW EXECUTE FUNCTION trouble(2, '{state}')")
    assert store.say(id, "Hi").status is TurnStatus.COMPLETED
    with engine_of(store).begin() as connection:
        assert (connection.scalar(text("SELECT last_value FROM troubles")) or 0) >= 3
        connection.exec_driver_sql("ALTER SEQUENCE troubles RESTART")
    if "UPDATE ON convstore_turns" not in when:  # an append changes no turn
        store.append(id, NOTE, idempotency_key="k")
    assert [message["role"] for message in store.history(id)][:2] == ["user", "assistant"]
    assert [turn.status for turn in store.turns(id)][:1] == [TurnStatus.COMPLETED]
    assert len(chat_server.requests) == 1


def test_lasting_trouble_becomes_an_error(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    with engine_of(store).begin() as connection:
        connection.exec_driver_sql(TRIGGER)
        connection.exec_driver_sql(
            "CREATE TRIGGER t AFTER INSERT ON convstore_turns FOR EACH ROW EXECUTE FUNCTION trouble(1000000, '40001')"
        )
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match="trouble"):
        store.say(id, "Hi")
    assert time.monotonic() - began < 5
    assert store.turns(id) == []
    assert chat_server.requests == []


# --- no free connection ---


@ASK
def test_a_pool_without_connections_is_a_named_error_and_loses_nothing(
    postgres_url: str, chat_server: ChatServer, ask: Ask, under_way: Begin
) -> None:
    engine = create_engine(postgres_url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    with client(chat_server) as caller, Store(engine=engine, client=caller, model="test-model") as store:
        id = store.new().id
        with engine.connect():
            for call in (lambda: ask(store, id), lambda: store.append(id, NOTE), lambda: store.history(id), store.new):
                with pytest.raises(DatabaseUnavailable, match="QueuePool limit"):
                    call()
        assert chat_server.requests == []
        assert store.turns(id) == []
        turn = under_way(ask, store, id)
        with engine.connect():
            turn.let_go()
            with pytest.raises(ReplyNotStored, match="QueuePool limit") as caught:
                turn.result.result(60)
            assert caught.value.completion.messages == (ANSWERED,)
        assert store.say(id, "Hi", wait=0).text == "You said: Hi"
        assert [turn.status for turn in store.turns(id)] == [TurnStatus.INTERRUPTED, TurnStatus.COMPLETED]
        check_all(engine)
    engine.dispose()


def test_a_call_without_a_model_is_tried_again_after_a_deadlock(store: Store) -> None:
    one, other = store.new().id, store.new().id
    run = store._engine.transactions.write
    met = threading.Barrier(2)

    def lock_both(first: str, second: str) -> None:
        waits = [True]

        def lock(work: UnitOfWork) -> None:
            for id in (first, second):
                work.connection.plain.execute(select(conversations).where(conversations.c.id == id).with_for_update())
                if waits:
                    waits.clear()
                    met.wait(60)

        run(lock)

    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(lock_both, *ids) for ids in ((one, other), (other, one))]
        assert [each.result(60) for each in found] == [None, None]
