"""Test that one turn runs at a time, and that the database stays free meanwhile."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest
from sqlalchemy import make_url, text

from convstore import ConversationBusy, InvalidInput, Store, TurnFailed, TurnStatus
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.conftest import ON_ALL_BACKENDS, Backend, HeldReply
from tests.contract.invariants import check_conversation, engine_of
from tests.contract.test_say import make_assistant, make_user, read_bodies
from tests.postgres import Emptied

RunInThread = Callable[[Callable[[], Any]], Future[Any]]


@ON_ALL_BACKENDS
def test_the_input_is_committed_before_the_model_is_called(
    store: Store, backend: Backend, hold: Callable[..., HeldReply], run_in_thread: RunInThread
) -> None:
    id = store.new(system="s").id
    held = hold("answer")
    said = run_in_thread(lambda: store.say(id, "question"))
    held.wait()
    with backend.connect() as connection:
        rows = connection.execute(
            text("SELECT seq, role, content, turn_seq FROM convstore_messages ORDER BY seq")
        ).all()
        assert rows == [(1, "system", "s", None), (2, "user", "question", 1)]
        statuses = connection.execute(text("SELECT seq, status, output_seq FROM convstore_turns")).all()
        assert statuses == [(1, "running", None)]
    (running,) = store.turns(id)
    assert (running.status, running.message, running.ended_at) == (TurnStatus.RUNNING, None, None)
    assert [record.message for record in store.input_of(running)] == [make_user("question")]
    assert store.unanswered(id) == [running]
    assert store.history(id) == [{"role": "system", "content": "s"}]
    check_conversation(engine_of(store), "", id, running=True)
    held.release()
    said.result(60)
    assert store.history(id)[1:] == [make_user("question"), make_assistant("answer")]


@pytest.mark.parametrize("stream", [False, True], ids=["say", "stream"])
@ON_ALL_BACKENDS
def test_no_transaction_is_open_during_the_model_call(
    store: Store, backend: Backend, hold: Callable[..., HeldReply], run_in_thread: RunInThread, stream: bool
) -> None:
    id = store.new().id
    store.say(id, "before")
    held = hold("A long answer.", hold_after=1 if stream else 0)
    said = run_in_thread(lambda: _read_stream(store, id) if stream else store.say(id, "question"))
    held.wait()
    if backend.is_postgres:
        with backend.connect() as connection:
            others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            others += (
                f" AND application_name <> '{Emptied.NAME}'"  # the connection that empties the database between tests
            )
            assert connection.execute(text(f"SELECT pid FROM pg_stat_activity WHERE {others}")).all() != []
            busy = text(f"SELECT state, query FROM pg_stat_activity WHERE {others} AND xact_start IS NOT NULL")
            assert connection.execute(busy).all() == []
            locks = text(f"SELECT * FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE {others}")
            assert connection.execute(locks).all() == []
    elif not backend.is_memory:
        _write_at_once(make_url(backend.url).database or "")
    other = store.new().id
    assert store.append(other, "a write of the same store")[0].seq == 1
    assert len(store.list()) == 2
    held.release()
    said.result(60)


def _read_stream(store: Store, id: str) -> list[str]:
    with store.stream(id, "question") as reply:
        return list(reply)


def _write_at_once(path: str) -> None:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")  # fails at once if another connection writes
        connection.execute("UPDATE convstore_conversations SET title = 'written'")
        connection.execute("COMMIT")
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0  # an open transaction that reads would keep the log
    finally:
        connection.close()


@ON_ALL_BACKENDS
def test_a_second_caller_waits_or_gets_conversation_busy(
    store: Store, chat_server: ChatServer, hold: Callable[..., HeldReply], run_in_thread: RunInThread
) -> None:
    id = store.new().id
    held = hold("first answer")
    first = run_in_thread(lambda: store.say(id, "first"))
    held.wait()
    for wait in (0, 0.05):
        with pytest.raises(ConversationBusy, match=f"{id}' is busy"):
            store.say(id, "refused", wait=wait)
    second = run_in_thread(lambda: store.say(id, "second"))
    assert len(chat_server.requests) == 1
    assert store.say(store.new().id, "another conversation", wait=0).status is TurnStatus.COMPLETED
    held.release()
    assert (first.result(60).seq, second.result(60).seq) == (1, 2)
    assert store.history(id) == [
        make_user("first"),
        make_assistant("first answer"),
        make_user("second"),
        make_assistant("You said: second"),
    ]
    assert read_bodies(chat_server)[-1]["messages"] == store.history(id)[:-1]
    assert [turn.seq for turn in store.turns(id)] == [1, 2]


def test_on_busy_reject_raises_conversation_busy_at_once(
    store: Store, hold: Callable[..., HeldReply], run_in_thread: RunInThread
) -> None:
    id = store.new().id
    held = hold("answer")
    first = run_in_thread(lambda: store.say(id, "first"))
    held.wait()
    with pytest.raises(ConversationBusy):
        store.say(id, "refused", on_busy="reject")
    with pytest.raises(ConversationBusy), store.stream(id, "refused", on_busy="reject"):
        pass
    with pytest.raises(ConversationBusy):
        store.append(id, "refused", on_busy="reject")
    with pytest.raises(ConversationBusy):
        store.retry(id, on_busy="reject")
    assert not first.done()
    held.release()
    assert first.result(60).text == "answer"
    assert store.say(id, "free", on_busy="reject").seq == 2


def test_invalid_wait_and_on_busy_are_refused_before_anything_is_stored_or_sent(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    waits: list[Any] = [{"wait": -1}, {"wait": float("nan")}, {"wait": "1"}, {"wait": None}]
    on_busy: list[Any] = [{"on_busy": "refuse"}, {"on_busy": None}, {"on_busy": True}]
    for wrong in (*waits, *on_busy):
        calls: list[Callable[[], object]] = [
            partial(store.say, id, "hi", **wrong),
            partial(store.stream, id, "hi", **wrong),
            partial(store.retry, id, **wrong),
            partial(store.append, id, "hi", **wrong),
        ]
        if "wait" in wrong:
            calls.append(partial(store.stop, id, **wrong))
        for call in calls:
            with pytest.raises(InvalidInput, match=r"^(wait|on_busy) must be "):
                call()
    assert (chat_server.requests, store.turns(id), store.messages(id)) == ([], [], [])


@ON_ALL_BACKENDS
def test_a_turn_also_holds_the_conversation_against_other_stores(
    store: Store, backend: Backend, hold: Callable[..., HeldReply], run_in_thread: RunInThread
) -> None:
    if backend.is_memory:
        assert backend.open().list() == []  # a database in memory belongs to one store
        return
    other = backend.open()
    id = store.new().id
    held = hold("first answer")
    first = run_in_thread(lambda: store.say(id, "first"))
    held.wait()
    with pytest.raises(ConversationBusy):
        other.say(id, "refused", wait=0)
    second = run_in_thread(lambda: other.say(id, "second"))
    held.release()
    first.result(60)
    second.result(60)
    expected = ["first", "first answer", "second", "You said: second"]
    for view in (store, other):
        assert [message["content"] for message in view.history(id)] == expected


@ON_ALL_BACKENDS
def test_turns_of_many_callers_of_one_conversation_never_overlap(
    store: Store, chat_server: ChatServer, run_in_thread: RunInThread
) -> None:
    id = store.new(system="s").id
    count = 12
    for done in [run_in_thread(lambda number=number: store.say(id, str(number))) for number in range(count)]:  # type: ignore[misc]
        done.result(60)
    texts = [message["content"] for message in store.history(id)][1:]
    assert sorted(texts[::2], key=int) == [str(number) for number in range(count)]
    assert texts[1::2] == [f"You said: {said}" for said in texts[::2]]
    sent = [len(body["messages"]) for body in read_bodies(chat_server)]
    assert sent == list(range(2, 2 * count + 2, 2))
    assert [record.seq for record in store.messages(id)] == list(range(1, 2 * count + 2))


@ON_ALL_BACKENDS
def test_callers_of_different_conversations_do_not_wait_for_each_other(
    store: Store, chat_server: ChatServer, run_in_thread: RunInThread
) -> None:
    together = threading.Barrier(4, timeout=60)

    def answer(_: dict[str, Any]) -> Reply:
        together.wait()  # the server replies after all four callers have sent their requests
        return Reply("together")

    chat_server.otherwise = answer
    ids = [store.new().id for _ in range(4)]
    waiting = [run_in_thread(lambda id=id: store.say(id, "hi")) for id in ids]  # type: ignore[misc]
    assert {done.result(60).text for done in waiting} == {"together"}


@ON_ALL_BACKENDS
def test_seqs_of_a_failed_turn_are_never_used_again(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Failure(500))
    with pytest.raises(TurnFailed):
        store.say(id, "lost")
    store.append(id, "kept")
    store.say(id, "next")
    records = store.messages(id)
    assert [(record.position, record.seq) for record in records] == [(1, 2), (2, 3), (3, 4)]
    assert [turn.seq for turn in store.turns(id)] == [1, 2]


@ON_ALL_BACKENDS
def test_a_conversation_can_be_changed_while_a_turn_runs(
    store: Store, hold: Callable[..., HeldReply], run_in_thread: RunInThread
) -> None:
    id = store.new(temperature=1).id
    held = hold("answer")
    said = run_in_thread(lambda: store.say(id, "question"))
    held.wait()
    assert store.set(id, title="changed", name="work", seed=5).title == "changed"
    held.release()
    assert said.result(60).request == {"model": "test-model", "temperature": 1}
    changed = store.get("work")
    assert (changed.title, changed.settings, changed.length) == ("changed", {"temperature": 1, "seed": 5}, 2)


@ON_ALL_BACKENDS
def test_a_second_store_reads_what_the_first_store_wrote(store: Store, backend: Backend) -> None:
    if backend.is_memory:
        return
    id = store.new("t", system="s", name="n").id
    store.say(id, "hi")
    other = backend.open()
    assert other.get("n") == store.get(id)
    assert other.messages(id) == store.messages(id)
    assert other.turns(id) == store.turns(id)
    store.close()
    assert other.say(id, "again").seq == 2
    assert store.get(id).length == 5  # a closed store opens its connections again
