"""Test a purge beside other callers: forks, messages with the same attachment, and the filling of the search index.

On SQLite one transaction at a time writes, so the moments are forced on PostgreSQL.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select

from convstore import ConversationBusy, ConversationNotFound, ConvstoreError, LeaseLost, ReplyNotStored, Store
from convstore.conversations import search_filling
from convstore.db import conversation_writes, descendants
from convstore.db.tables import attachments, search_documents
from convstore.leases import waiting
from convstore.testing import ChatServer
from tests.contract.invariants import check_all, engine_of
from tests.faults.clients import open_store
from tests.faults.gates import Held

PICTURE = "data:image/png;base64," + base64.b64encode(b"picture" * 1000).decode()
PICTURED = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}
ONE = {"role": "user", "content": "One"}


@pytest.fixture
def store(postgres_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with open_store(postgres_url, chat_server.url) as store:
        store.list()
        yield store
        check_all(engine_of(store))


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def is_waiting(future: Future[Any]) -> bool:
    """Return True if a call has not returned after a moment; a call that should have returned makes the test fail."""
    try:
        future.result(0.3)
    except TimeoutError:
        return True
    return False


def test_a_fork_that_is_being_made_is_waited_for_and_keeps_its_copy(
    store: Store, engine: Engine, threads: ThreadPoolExecutor
) -> None:
    store.new(id="a", messages=[ONE])
    with engine.connect() as connection:
        store.using(connection).fork("a", new_id="b")
        purging = threads.submit(store.purge, "a")
        assert is_waiting(purging)
        connection.commit()
    assert [kept.fork_id for kept in purging.result().kept_by] == ["b"]
    assert store.history("b") == [ONE]


def test_a_fork_of_a_fork_that_is_being_made_is_waited_for_too(
    store: Store, engine: Engine, threads: ThreadPoolExecutor
) -> None:
    store.new(id="a", messages=[ONE])
    store.fork("a", new_id="b")
    with engine.connect() as connection:
        store.using(connection).fork("b", new_id="c")
        purging = threads.submit(store.purge, "a")
        assert is_waiting(purging)
        connection.commit()
    assert [kept.fork_id for kept in purging.result().kept_by] == ["b"]
    assert store.history("c") == [ONE]
    store.purge("b")
    assert store.history("c") == [ONE]


def test_a_conversation_that_is_being_purged_is_not_forked(
    store: Store, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOCK_WAIT_SECONDS", 0.2)
    store.new(id="a", messages=[ONE])
    store.fork("a", new_id="b")
    with engine.connect() as connection:
        store.using(connection).purge("a")
        for id in ("a", "b"):
            with pytest.raises(ConversationBusy, match=f"conversation '{id}' is busy: another transaction"):
                store.fork(id, new_id="c")
        connection.rollback()
    store.fork("a", new_id="c")
    with engine.connect() as connection:
        store.using(connection).purge("a")
        connection.commit()
    with pytest.raises(ConversationNotFound):
        store.fork("a")
    assert [store.history(id) for id in ("b", "c")] == [[ONE], [ONE]]


def test_a_fork_that_has_read_its_origin_before_the_purge_is_made_of_what_is_there(
    store: Store, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin is purged just before the fork looks at it."""
    store.new(id="a", messages=[ONE])
    store.fork("a", new_id="b")
    hold = conversation_writes.hold_origin
    purged = threading.Event()

    def purge_first(connection: Any, key: Any) -> None:
        if not purged.is_set():
            purged.set()
            with open_store(str(engine.url.render_as_string(hide_password=False)), "http://x") as other:
                other.purge("a")
        hold(connection, key)

    monkeypatch.setattr("convstore.conversations.forks.hold_origin", purge_first)
    store.fork("b", new_id="c")
    assert store.history("c") == [ONE]
    assert store.get("c").forked_from == "b"


def test_turns_and_appends_go_on_while_a_callers_transaction_has_made_a_fork(store: Store, engine: Engine) -> None:
    store.new(id="a", messages=[ONE])
    with engine.connect() as connection:
        store.using(connection).fork("a", new_id="b")
        store.append("a", ONE, on_busy="reject")
        store.say("a", "Hi", on_busy="reject")
        store.set("a", title="New")
        store.tag("a", "tag")
        store.undo("a")
        connection.commit()
    assert store.history("b") == [ONE]


def test_comparing_the_whole_index_waits_for_a_purge_and_leaves_the_conversation_out(
    store: Store, engine: Engine, threads: ThreadPoolExecutor
) -> None:
    store.new(id="a", messages=[ONE])
    store.new(id="b", messages=[ONE])
    with engine.connect() as connection:
        store.using(connection).purge("a")
        indexing = threads.submit(store.reindex, whole=True)
        assert is_waiting(indexing)
        connection.commit()
    assert indexing.result() == 0
    assert len(store.search("One").hits) == 1


def test_an_attachment_that_a_message_is_just_stored_with_stays(
    store: Store, engine: Engine, threads: ThreadPoolExecutor
) -> None:
    store.new(id="a", messages=[PICTURED])
    store.new(id="b")
    with engine.connect() as connection:
        store.using(connection).append("b", PICTURED)
        purging = threads.submit(store.purge, "a")
        assert is_waiting(purging)
        connection.commit()
    assert purging.result().attachments == 0
    assert store.history("b", exact=True) == [PICTURED]


def test_a_message_stores_an_attachment_again_that_is_being_purged(
    store: Store, engine: Engine, threads: ThreadPoolExecutor
) -> None:
    store.new(id="a", messages=[PICTURED])
    store.new(id="b")
    with engine.connect() as connection:
        assert store.using(connection).purge("a").attachments == 1
        appending = threads.submit(store.append, "b", PICTURED)
        assert is_waiting(appending)
        connection.commit()
    appending.result()
    assert store.history("b", exact=True) == [PICTURED]
    with engine.connect() as connection:
        assert len(connection.execute(select(attachments.c.digest)).all()) == 1


def test_two_purges_of_one_conversation_remove_it_once(store: Store, threads: ThreadPoolExecutor) -> None:
    for number in range(5):
        store.new(id="a", messages=[ONE] * (number + 1))
        done = [threads.submit(store.purge, "a") for _ in range(2)]
        outcomes = [one.exception() for one in done]
        assert sorted(type(one).__name__ for one in outcomes) == ["ConversationNotFound", "NoneType"]


def test_purges_of_forks_and_their_origins_at_once_leave_nothing(store: Store) -> None:
    ids = ["f0"]
    store.new(id="f0", messages=[ONE])
    for number in range(1, 12):
        store.fork(ids[number // 2], new_id=f"f{number}")
        store.append(f"f{number}", ONE)
        ids.append(f"f{number}")
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(store.purge, ids[:10]))
    assert sorted(one.id for one in store.list()) == ["f10", "f11"]
    assert all(set(map(str, store.history(id))) == {str(ONE)} for id in ("f10", "f11"))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_index_that_is_being_filled_takes_nothing_of_a_purged_conversation(
    request: pytest.FixtureRequest, chat_server: ChatServer, kind: str
) -> None:
    url = request.getfixturevalue("sqlite_url" if kind == "sqlite" else "postgres_url")
    with open_store(url, chat_server.url) as store:
        store.new(id="a", messages=[{"role": "user", "content": "word " * 40_000}])  # it is indexed later
        store.new(id="b", messages=[{"role": "user", "content": "other " * 40_000}])
        transactions = store._transactions
        batches, _ = transactions.read(search_filling.read_batches, "", ["a", "b"])
        assert [batch.key.id for batch in batches] == ["a", "b"]
        store.purge("a")
        assert transactions.write(search_filling.store_batches, batches) == 1
        with engine_of(store).connect() as connection:
            found = connection.execute(select(search_documents.c.conversation_id)).scalars().all()
        assert found == ["b"]
        assert store.reindex() == 0
        check_all(engine_of(store))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_reply_that_comes_after_its_conversation_was_purged_is_in_the_error(
    request: pytest.FixtureRequest, chat_server: ChatServer, threads: ThreadPoolExecutor, kind: str
) -> None:
    """Another caller ended the turn, and purged the conversation, while the model was thinking."""
    url = request.getfixturevalue("sqlite_url" if kind == "sqlite" else "postgres_url")
    with open_store(url, chat_server.url) as store:
        store.new(id="a", messages=[ONE])
        store.fork("a", new_id="b")
        for id in ("a", "b"):
            held = Held(chat_server, f"Late {id}")
            asking = threads.submit(store.say, id, "Hi")
            held.wait()
            assert store.stop(id, wait=0)
            store.purge("a" if id == "a" else "b")
            held.open()
            with pytest.raises(ConvstoreError) as error:
                asking.result()
            assert isinstance(error.value, LeaseLost | ReplyNotStored | ConversationNotFound), error.value
            with pytest.raises(ConversationNotFound):
                store.get(id)
        assert store.finish_purge() == []
        assert store.list() == []


def test_a_fork_that_is_purged_before_it_is_locked_is_not_missed(
    store: Store, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The purge of the origin has found the fork, and another caller purges the fork at this moment."""
    store.new(id="a", messages=[ONE])
    store.fork("a", new_id="b")
    store.fork("b", new_id="c")
    found = descendants.list_descendants
    purged = threading.Event()

    def find_and_purge(connection: Any, key: Any, **how: Any) -> Any:
        forks = found(connection, key, **how)
        if key.id == "a" and not purged.is_set():
            purged.set()
            with engine.connect() as other:
                # `a` is locked by its own purge; `b` and `c` are not yet.
                store.using(other).purge("b")
                other.commit()
        return forks

    monkeypatch.setattr("convstore.conversations.purging.list_descendants", find_and_purge)
    receipt = store.purge("a")
    assert [(kept.fork_id, kept.messages) for kept in receipt.kept_by] == [("c", 1)]
    assert store.history("c") == [ONE]
    assert store.get("c").forked_from is None
