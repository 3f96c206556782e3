"""One at a time, and nothing of the database held while the model thinks."""

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
from tests.contract.conftest import ON_CALLERS_ENGINES_TOO, Backend, Held
from tests.contract.invariants import check_conversation, engine_of
from tests.contract.test_say import assistant, bodies, user
from tests.postgres import Emptied

Elsewhere = Callable[[Callable[[], Any]], Future[Any]]


@ON_CALLERS_ENGINES_TOO
def test_the_users_message_is_committed_before_the_model_is_called(
    store: Store, backend: Backend, hold: Callable[..., Held], elsewhere: Elsewhere
) -> None:
    id = store.new(system="s").id
    held = hold("answer")
    said = elsewhere(lambda: store.say(id, "question"))
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
    assert [record.message for record in store.input_of(running)] == [user("question")]
    assert store.unanswered(id) == [running]
    assert store.history(id) == [{"role": "system", "content": "s"}]
    check_conversation(engine_of(store), "", id, running=True)
    held.let_go()
    said.result(10)
    assert store.history(id)[1:] == [user("question"), assistant("answer")]


@pytest.mark.parametrize("stream", [False, True], ids=["say", "stream"])
@ON_CALLERS_ENGINES_TOO
def test_no_transaction_is_open_while_the_model_thinks(
    store: Store, backend: Backend, hold: Callable[..., Held], elsewhere: Elsewhere, stream: bool
) -> None:
    id = store.new().id
    store.say(id, "before")
    held = hold("A long answer.", hold_after=1 if stream else 0)
    said = elsewhere(lambda: _read(store, id) if stream else store.say(id, "question"))
    held.wait()
    if backend.is_postgres:
        with backend.connect() as connection:
            others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            others += f" AND application_name <> '{Emptied.NAME}'"  # which is there in any case
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
    held.let_go()
    said.result(10)


def _read(store: Store, id: str) -> list[str]:
    with store.stream(id, "question") as reply:
        return list(reply)


def _write_at_once(path: str) -> None:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")  # fails at once if there is another writer
        connection.execute("UPDATE convstore_conversations SET title = 'written'")
        connection.execute("COMMIT")
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0  # a reader's open transaction would keep the log
    finally:
        connection.close()


@ON_CALLERS_ENGINES_TOO
def test_a_second_caller_is_refused_at_once_or_waits(
    store: Store, chat_server: ChatServer, hold: Callable[..., Held], elsewhere: Elsewhere
) -> None:
    id = store.new().id
    held = hold("first answer")
    first = elsewhere(lambda: store.say(id, "first"))
    held.wait()
    for wait in (0, 0.05):
        with pytest.raises(ConversationBusy, match=f"{id}' is busy"):
            store.say(id, "refused", wait=wait)
    second = elsewhere(lambda: store.say(id, "second"))
    assert len(chat_server.requests) == 1
    assert store.say(store.new().id, "another conversation", wait=0).status is TurnStatus.COMPLETED
    held.let_go()
    assert (first.result(10).seq, second.result(10).seq) == (1, 2)
    assert store.history(id) == [
        user("first"),
        assistant("first answer"),
        user("second"),
        assistant("You said: second"),
    ]
    assert bodies(chat_server)[-1]["messages"] == store.history(id)[:-1]
    assert [turn.seq for turn in store.turns(id)] == [1, 2]


def test_a_caller_may_say_that_it_does_not_wait(store: Store, hold: Callable[..., Held], elsewhere: Elsewhere) -> None:
    id = store.new().id
    held = hold("answer")
    first = elsewhere(lambda: store.say(id, "first"))
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
    held.let_go()
    assert first.result(10).text == "answer"
    assert store.say(id, "free", on_busy="reject").seq == 2


def test_how_to_wait_is_checked_before_anything_is_stored_or_sent(store: Store, chat_server: ChatServer) -> None:
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
            with pytest.raises(InvalidInput, match=r"^(wait|on_busy) is "):
                call()
    assert (chat_server.requests, store.turns(id), store.messages(id)) == ([], [], [])


@ON_CALLERS_ENGINES_TOO
def test_a_second_store_on_the_same_database_is_held_off_too(
    store: Store, backend: Backend, hold: Callable[..., Held], elsewhere: Elsewhere
) -> None:
    if backend.is_memory:
        assert backend.open().list() == []  # a database in memory is its store's own
        return
    other = backend.open()
    id = store.new().id
    held = hold("first answer")
    first = elsewhere(lambda: store.say(id, "first"))
    held.wait()
    with pytest.raises(ConversationBusy):
        other.say(id, "refused", wait=0)
    second = elsewhere(lambda: other.say(id, "second"))
    held.let_go()
    first.result(10)
    second.result(10)
    expected = ["first", "first answer", "second", "You said: second"]
    for view in (store, other):
        assert [message["content"] for message in view.history(id)] == expected


@ON_CALLERS_ENGINES_TOO
def test_many_callers_of_one_conversation_never_interleave(
    store: Store, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = store.new(system="s").id
    count = 12
    for done in [elsewhere(lambda number=number: store.say(id, str(number))) for number in range(count)]:  # type: ignore[misc]
        done.result(30)
    texts = [message["content"] for message in store.history(id)][1:]
    assert sorted(texts[::2], key=int) == [str(number) for number in range(count)]
    assert texts[1::2] == [f"You said: {said}" for said in texts[::2]]
    sent = [len(body["messages"]) for body in bodies(chat_server)]
    assert sent == list(range(2, 2 * count + 2, 2))
    assert [record.seq for record in store.messages(id)] == list(range(1, 2 * count + 2))


@ON_CALLERS_ENGINES_TOO
def test_callers_of_many_conversations_do_not_wait_for_each_other(
    store: Store, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    together = threading.Barrier(4, timeout=10)

    def answer(_: dict[str, Any]) -> Reply:
        together.wait()  # none is answered before all have asked
        return Reply("together")

    chat_server.otherwise = answer
    ids = [store.new().id for _ in range(4)]
    waiting = [elsewhere(lambda id=id: store.say(id, "hi")) for id in ids]  # type: ignore[misc]
    assert {done.result(20).text for done in waiting} == {"together"}


@ON_CALLERS_ENGINES_TOO
def test_numbers_that_a_failed_turn_took_are_never_given_again(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Failure(500))
    with pytest.raises(TurnFailed):
        store.say(id, "lost")
    store.append(id, "kept")
    store.say(id, "next")
    records = store.messages(id)
    assert [(record.position, record.seq) for record in records] == [(1, 2), (2, 3), (3, 4)]
    assert [turn.seq for turn in store.turns(id)] == [1, 2]


@ON_CALLERS_ENGINES_TOO
def test_titles_can_be_changed_while_a_turn_runs(store: Store, hold: Callable[..., Held], elsewhere: Elsewhere) -> None:
    id = store.new(temperature=1).id
    held = hold("answer")
    said = elsewhere(lambda: store.say(id, "question"))
    held.wait()
    assert store.set(id, title="changed", name="work", seed=5).title == "changed"
    held.let_go()
    assert said.result(10).request == {"model": "test-model", "temperature": 1}
    changed = store.get("work")
    assert (changed.title, changed.settings, changed.length) == ("changed", {"temperature": 1, "seed": 5}, 2)


@ON_CALLERS_ENGINES_TOO
def test_what_one_store_writes_another_store_reads(store: Store, backend: Backend) -> None:
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
