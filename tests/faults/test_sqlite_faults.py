"""Test failures of SQLite: a full or broken disk, locks, a file that is read-only, removed or replaced.

Each is a named error. Nothing is half-written. A reply of the model is stored or is in the error. When the trouble is
over, the conversation goes on.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from convstore import (
    ConversationBusy,
    ConversationNotFound,
    DatabaseError,
    DatabaseUnavailable,
    ReplyNotStored,
    Store,
    Turn,
    TurnStatus,
)
from convstore.db import sqlite_engine
from convstore.db.schema_upgrade import upgrade
from convstore.testing import ChatServer, Reply
from tests.contract.invariants import check_all, check_conversation
from tests.faults.driven import engine_of, opened

LONG = 30_000
"""Characters of a message that needs several pages."""
QUESTION = "question " + "?" * LONG
PIECES = ("answer ", "!" * LONG)
ASKED = {"role": "user", "content": QUESTION}
ANSWERED = {"role": "assistant", "content": "".join(PIECES)}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "chat.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """Return the path of a database file in its own folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    return Path(shutil.copy(template, folder / "chat.db"))


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, path: Path, chat_server: ChatServer) -> Iterator[Store]:
    chat_server.otherwise = lambda _: Reply(pieces=PIECES)
    with opened(kind, f"sqlite:///{path}", chat_server) as store:
        store.list()
        yield store
        check_all(engine_of(store))


def _say(store: Store, id: str, **options: Any) -> Turn:
    return store.say(id, QUESTION, **options)


def _stream(store: Store, id: str, **options: Any) -> Turn:
    with store.stream(id, QUESTION, **options) as reply:
        for _ in reply:
            pass
    return reply.turn


Ask = Callable[..., Turn]
ASK = pytest.mark.parametrize("ask", [_say, _stream], ids=["say", "stream"])
OPERATIONS: dict[str, Callable[[Store, str], object]] = {
    "new": lambda store, id: store.new(id=f"{id}-new", messages=[ASKED]),
    "say": _say,
    "stream": _stream,
    "keyed say": lambda store, id: store.say(id, QUESTION, idempotency_key="k"),
    "retry": lambda store, id: store.retry(id),
    "append": lambda store, id: store.append(id, ASKED, ASKED),
    "keyed append": lambda store, id: store.append(id, ASKED, idempotency_key="k"),
    "set": lambda store, id: store.set(id, metadata={"long": QUESTION}),
}
EACH = [*(("sync", operation) for operation in OPERATIONS), ("async", "say"), ("async", "stream")]
"""The database work is the same for both; only turns have two runners."""


# --- a full or broken disk, at every statement and commit ---


class Trouble(ABC):
    """Trouble that begins at one statement or commit, and lasts until `lift`."""

    def __init__(self, engine: Engine) -> None:
        self.points: list[str] = []
        self._begin_at: int | None = None
        self._begun = False
        self._connections: list[sqlite3.Connection] = []
        self._commit = engine.dialect.do_commit
        event.listen(engine, "before_cursor_execute", self._before)
        engine.dialect.do_commit = self._do_commit  # type: ignore[method-assign, assignment]

    def watch(self, begin_at: int | None) -> None:
        self.points, self._begin_at, self._begun = [], begin_at, False

    def lift(self) -> None:
        self._begin_at, self._begun = None, False

    def _before(self, connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        self._at(connection.connection.driver_connection, " ".join(statement.split())[:40])

    def _do_commit(self, connection: Any) -> None:
        self._at(connection.driver_connection, "COMMIT")
        self._commit(connection)

    def _at(self, connection: Any, point: str) -> None:
        if threading.current_thread().name == "convstore-heartbeat":
            return
        self._begun = self._begun or len(self.points) == self._begin_at
        self.points.append(point)
        if self._begun:
            self.happen(connection, point)

    @abstractmethod
    def happen(self, connection: sqlite3.Connection, point: str) -> None: ...


class Full(Trouble):
    """The file cannot grow."""

    def happen(self, connection: sqlite3.Connection, point: str) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # not less than its size
        self._connections.append(connection)

    def lift(self) -> None:
        super().lift()
        for connection in self._connections:
            connection.execute("PRAGMA max_page_count = 1073741823")
        self._connections.clear()


class Broken(Trouble):
    """The disk fails: every statement is an error."""

    def happen(self, connection: sqlite3.Connection, point: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")


def _outcome(failure: DatabaseError | None) -> str:
    if isinstance(failure, ReplyNotStored):
        _has_the_reply(failure)
        return "not stored"
    assert failure is None or type(failure) is DatabaseUnavailable
    return "done" if failure is None else "refused"


@pytest.mark.parametrize(("kind", "operation"), EACH, indirect=["kind"])
@pytest.mark.parametrize(("make", "says"), [(Full, "is full"), (Broken, "disk I/O error")], ids=["full", "broken"])
def test_trouble_at_any_statement_or_commit_leaves_nothing_half_written(
    store: Store, chat_server: ChatServer, operation: str, make: Callable[[Engine], Trouble], says: str
) -> None:
    trouble = make(engine_of(store))
    perform = OPERATIONS[operation]

    def prepared(name: str) -> str:
        id = store.new(id=name, system="Be brief.").id
        store.say(id, "Before")
        return id

    def found(id: str) -> list[object]:
        made = [conversation.length for conversation in store.list(limit=None) if conversation.id == f"{id}-new"]
        for one in (id, f"{id}-new")[: 1 + len(made)]:
            check_conversation(engine_of(store), "", one, running=True)
        return [store.get(id).metadata, store.history(id, exact=True), made]

    id = prepared("unharmed")
    trouble.watch(None)
    perform(store, id)
    points = list(trouble.points)
    whole = found(id)
    outcomes = set()
    for number, point in enumerate(points):
        where = f"{operation}: {point} ({number})"
        id = prepared(f"struck-{number}")
        untouched = found(id)
        calls = len(chat_server.requests)
        trouble.watch(number)
        failure: DatabaseError | None = None
        try:
            perform(store, id)
        except DatabaseError as error:
            failure = error
        finally:
            trouble.lift()
        outcome = _outcome(failure)
        assert failure is None or says in str(failure), where
        outcomes.add(outcome)
        assert len(chat_server.requests) - calls == (
            outcome != "refused" and operation in ("say", "stream", "keyed say", "retry")
        ), where
        assert found(id) == (whole if outcome == "done" else untouched), where
        # The same again, now that the trouble is over.
        if outcome != "done":
            perform(store, id)
            assert found(id) == whole, where
        assert store.say(id, "And now?", wait=0).status is TurnStatus.COMPLETED
        check_conversation(engine_of(store), "", id)
        statuses = [turn.status for turn in store.turns(id) if turn.status is not TurnStatus.COMPLETED]
        assert statuses == ([TurnStatus.INTERRUPTED] if outcome == "not stored" else []), where
    asks = operation in ("say", "stream", "keyed say", "retry")
    if operation == "retry" and make is Full:
        assert outcomes & {"refused", "not stored"}  # it adds little: whether the file must grow depends on its pages
    else:
        assert outcomes >= ({"refused", "not stored"} if asks and operation != "retry" else {"refused"})
    assert make is not Broken or "done" not in outcomes
    print(f"\n{operation}, {make.__name__}: at {len(points)} points")


def test_a_full_disk_loses_no_stored_part_of_a_stream(
    store: Store, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the turn stores the reply whole, although the beats before it failed."""
    monkeypatch.setattr("convstore.leases.heartbeat.FLUSH_SECONDS", 0.01)
    go, begun = threading.Event(), threading.Event()
    chat_server.script(Reply(pieces=PIECES, hold=go, hold_after=2, started=begun))
    id = store.new().id
    failed = threading.Event()

    @event.listens_for(engine_of(store), "before_cursor_execute")
    def full(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO convstore_deltas") and not go.is_set():
            failed.set()
            raise sqlite3.OperationalError("database or disk is full")

    with store.stream(id, QUESTION) as reply:
        text = next(reply) + next(reply)
        assert failed.wait(60)
        go.set()
        text += "".join(reply)
    assert text == ANSWERED["content"]
    assert store.history(id) == [ASKED, ANSWERED]


# --- another writer that keeps its lock ---


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


class UnderWay:
    """A turn in another thread; the server holds its reply back until `ended`."""

    def __init__(self, server: ChatServer, threads: ThreadPoolExecutor, ask: Ask, store: Store, id: str) -> None:
        self._go, begun = threading.Event(), threading.Event()
        server.script(Reply(pieces=PIECES, hold=self._go, hold_after=int(ask is _stream), started=begun))
        self._result = threads.submit(ask, store, id)
        assert begun.wait(20), self._result.exception()

    def ended(self) -> Turn:
        self._go.set()
        return self._result.result(60)


Begin = Callable[[Ask, Store, str], UnderWay]


@pytest.fixture
def under_way(chat_server: ChatServer) -> Iterator[Begin]:
    """Begin a turn, and return when the model has been called."""
    made: list[UnderWay] = []
    with ThreadPoolExecutor(2) as threads:

        def begin(ask: Ask, store: Store, id: str) -> UnderWay:
            made.append(UnderWay(chat_server, threads, ask, store, id))
            return made[-1]

        yield begin
        for one in made:
            one._go.set()


def _has_the_reply(error: ReplyNotStored) -> None:
    assert error.completion.messages == (ANSWERED,)
    assert error.completion.finish_reason == "stop"


def _goes_on(store: Store, id: str, *, after: list[TurnStatus]) -> None:
    """Assert that the conversation can be used at once, and that the turn without an end is stored as interrupted."""
    before = store.history(id)
    assert _say(store, id, wait=0).status is TurnStatus.COMPLETED
    assert store.history(id) == [*before, ASKED, ANSWERED]
    assert [turn.status for turn in store.turns(id)] == [*after, TurnStatus.COMPLETED]
    check_conversation(engine_of(store), "", id)


@ASK
def test_a_lock_that_another_writer_keeps_is_an_error_after_the_busy_timeout(
    kind: str, path: Path, chat_server: ChatServer, ask: Ask, under_way: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_engine, "SQLITE_BUSY_SECONDS", 0.2)
    chat_server.otherwise = lambda _: Reply(pieces=PIECES)
    with opened(kind, f"sqlite:///{path}", chat_server) as store:
        id = store.new().id
        calls: list[Callable[[], object]] = [
            lambda: ask(store, id),
            lambda: store.append(id, ASKED),
            lambda: store.set(id, title="Another"),
            store.new,
        ]
        with _locked(path):
            for call in calls:
                began = time.monotonic()
                with pytest.raises(DatabaseUnavailable, match="another program kept it locked"):
                    call()
                assert 0.2 <= time.monotonic() - began < 5
            assert store.history(id) == []  # reading does not wait
        assert chat_server.requests == []
        assert store.turns(id) == []
        turn = under_way(ask, store, id)
        with _locked(path), pytest.raises(ReplyNotStored, match="another program kept it locked") as caught:
            turn.ended()
        _has_the_reply(caught.value)
        _goes_on(store, id, after=[TurnStatus.INTERRUPTED])


# --- read-only ---


@pytest.mark.parametrize("how", ["mode=ro", "immutable=1"])
def test_a_read_only_database_can_be_read_and_refuses_writes(
    kind: str, path: Path, chat_server: ChatServer, how: str
) -> None:
    with opened("sync", f"sqlite:///{path}", chat_server) as store:
        id = store.new().id
        store.say(id, "Hi")
        with engine_of(store).connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    with opened(kind, f"sqlite:///file:{path}?{how}&uri=true", chat_server) as reader:
        assert [message["role"] for message in reader.history(id)] == ["user", "assistant"]
        for call in OPERATIONS.values():
            with pytest.raises(DatabaseUnavailable, match="readonly"):
                call(reader, id)
        assert [turn.status for turn in reader.turns(id)] == [TurnStatus.COMPLETED]
    assert len(chat_server.requests) == 1


@ASK
def test_a_database_that_becomes_read_only_while_the_model_thinks(store: Store, ask: Ask, under_way: Begin) -> None:
    id = store.new().id
    turn = under_way(ask, store, id)
    read_only = True

    @event.listens_for(engine_of(store), "checkout")
    def set_mode(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA query_only = {int(read_only)}")

    with pytest.raises(ReplyNotStored, match="readonly") as caught:
        turn.ended()
    _has_the_reply(caught.value)
    with pytest.raises((DatabaseUnavailable, ConversationBusy)):
        store.say(id, "Hi", wait=0)
    read_only = False
    _goes_on(store, id, after=[TurnStatus.INTERRUPTED])


# --- a file that was removed or replaced ---


@ASK
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_file_that_is_removed_while_the_model_thinks(
    kind: str, path: Path, chat_server: ChatServer, ask: Ask, under_way: Begin, what: str, tmp_path: Path
) -> None:
    """SQLite alone would go on writing to a file without a name."""
    chat_server.otherwise = lambda _: Reply(pieces=PIECES)
    with opened(kind, f"sqlite:///{path}", chat_server) as store:
        id = store.new().id
        turn = under_way(ask, store, id)
        away = tmp_path / "away"
        path.parent.rename(away)
        if what == "file":
            path.parent.mkdir()
        with pytest.raises(ReplyNotStored, match="its file was removed") as caught:
            turn.ended()
        _has_the_reply(caught.value)
        for call in (lambda: store.history(id), lambda: ask(store, id), store.new):
            with pytest.raises(DatabaseUnavailable, match="its file was removed"):
                call()
        assert len(chat_server.requests) == 1
        assert not path.exists()  # a new, empty file would hide the loss
        if what == "file":
            path.parent.rmdir()
        away.rename(path.parent)
        _goes_on(store, id, after=[TurnStatus.INTERRUPTED])


def remove_all(folder: Path) -> None:
    """Remove what is in the folder of a database: its files, and the folder of lock files."""
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


@ASK
def test_a_file_that_is_replaced_by_an_older_one_while_the_model_thinks(
    kind: str, path: Path, chat_server: ChatServer, ask: Ask, under_way: Begin, tmp_path: Path
) -> None:
    chat_server.otherwise = lambda _: Reply(pieces=PIECES)
    with opened(kind, f"sqlite:///{path}", chat_server) as store:
        id = store.new(system="Be brief.").id
        backup = tmp_path / "backup.db"
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        turn = under_way(ask, store, id)
        remove_all(path.parent)
        backup.rename(path)
        with pytest.raises(ReplyNotStored, match="no longer has turn") as caught:
            turn.ended()
        _has_the_reply(caught.value)
        assert store.turns(id) == []
        _goes_on(store, id, after=[])
        check_all(engine_of(store))


@ASK
def test_a_file_that_is_replaced_by_another_database_while_the_model_thinks(
    kind: str, path: Path, template: Path, chat_server: ChatServer, ask: Ask, under_way: Begin
) -> None:
    with opened(kind, f"sqlite:///{path}", chat_server) as store:
        id = store.new().id
        turn = under_way(ask, store, id)
        remove_all(path.parent)
        shutil.copy(template, path)
        with pytest.raises(ReplyNotStored) as caught:
            turn.ended()
        _has_the_reply(caught.value)
        with pytest.raises(ConversationNotFound):
            store.history(id)


@ASK
def test_an_old_caller_does_not_end_a_turn_of_a_new_conversation_with_the_same_id(
    path: Path, template: Path, chat_server: ChatServer, ask: Ask, under_way: Begin
) -> None:
    chat_server.otherwise = lambda _: Reply(pieces=PIECES)
    with opened("sync", f"sqlite:///{path}", chat_server) as store:
        id = store.new().id
        turn = under_way(ask, store, id)
        remove_all(path.parent)
        shutil.copy(template, path)
        assert store.new(id=id).length == 0
        _goes_on(store, id, after=[])  # a turn with the same number, and one more
        before = store.turns(id)
        with pytest.raises(ReplyNotStored, match="no longer has turn") as caught:
            turn.ended()
        _has_the_reply(caught.value)
        assert store.turns(id) == before
        _goes_on(store, id, after=[TurnStatus.COMPLETED])
