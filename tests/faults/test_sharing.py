"""Test one store in many threads and in forked processes; closed, used again, and dropped without a trace."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from sqlalchemy import NullPool, QueuePool, create_engine, select, text

from convstore import ConversationBusy, ConversationNotFound, InvalidInput, Store, TurnFailed, TurnStatus
from convstore.db.tables import conversations
from convstore.leases import heartbeat, process_locks
from convstore.testing import ChatServer, Failure, Reply
from convstore.testing.responses import JSONObject, echo, text_of
from tests.contract.invariants import check_conversation, engine_of
from tests.faults.clients import open_store
from tests.processes import PATIENCE, Channel, Zygote

THREADS = 64
FORKS = 4


@pytest.fixture
def store(database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    store = open_store(database_url, chat_server.url)
    store.list()
    yield store
    store.close()


def checked_out(store: Store) -> int:
    pool = engine_of(store).pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("convstore")]


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until a condition is true, and fail if it never is."""
    give_up = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


# --- threads ---


def test_many_threads_share_a_store_each_with_its_own_conversation(store: Store, chat_server: ChatServer) -> None:
    together = threading.Barrier(THREADS)

    def hold_dialogue(number: int) -> str:
        together.wait(PATIENCE)
        id = store.new(f"Dialogue {number}").id
        assert store.say(id, f"{number}, first").text == f"You said: {number}, first"
        with store.stream(id, f"{number}, second") as reply:
            assert "".join(reply) == f"You said: {number}, second"
        return id

    with ThreadPoolExecutor(THREADS) as threads:
        ids = list(threads.map(hold_dialogue, range(THREADS)))
    for number, id in enumerate(ids):
        said = [f"{number}, first", f"You said: {number}, first", f"{number}, second", f"You said: {number}, second"]
        assert [message["content"] for message in store.history(id)] == said
        check_conversation(store, "", id)
    assert len(chat_server.requests) == 2 * THREADS
    assert checked_out(store) == 0


def test_many_threads_share_a_store_and_one_conversation(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    together = threading.Barrier(THREADS)

    def say(number: int) -> bool:
        together.wait(PATIENCE)
        return store.say(id, f"{number}", wait=120).text == f"You said: {number}"

    with ThreadPoolExecutor(THREADS) as threads:
        assert all(threads.map(say, range(THREADS)))
    said = [message["content"] for message in store.history(id)]
    assert sorted(said[::2], key=int) == [str(number) for number in range(THREADS)]
    assert said[1::2] == [f"You said: {question}" for question in said[::2]]
    assert len(chat_server.requests) == THREADS
    assert checked_out(store) == 0
    check_conversation(store, "", id)


# --- forks ---


def fork(work: Callable[[], None]) -> int:
    """Run a function in a forked child, and return its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def wait_for(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def prefork(channel: Channel, *, url: str, base_url: str, shared: str) -> None:
    """Fork workers from a server that has used its store; workers and server use the same object."""
    store = Store(url, base_url=base_url, model="test-model")
    own = store.new().id
    store.say(own, "before")
    ids = [store.new().id for _ in range(FORKS)]

    def work(number: int) -> None:
        for said in range(3):
            assert store.say(ids[number], f"{said}").text == f"You said: {said}"
            assert store.say(shared, f"{number}-{said}", wait=60).text == f"You said: {number}-{said}"
        with store.stream(ids[number], "streamed") as reply:
            assert "".join(reply) == "You said: streamed"
        store.close()

    pids = [fork(lambda number=number: work(number)) for number in range(FORKS)]  # type: ignore[misc]
    store.say(own, "meanwhile")
    assert [wait_for(pid) for pid in pids] == [0] * FORKS
    store.say(own, "after")

    context = multiprocessing.get_context("fork")
    process = context.Process(target=work, args=(0,))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    store.say(own, "at last")
    channel.send(["held", [own, *ids]])
    store.close()


def test_a_prefork_server_shares_its_store_with_its_workers(
    zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    shared = store.new().id
    child = zygote.start(prefork, url=database_url, base_url=chat_server.url, shared=shared)
    own, *ids = child.receive("held")
    assert child.rest() == []
    assert child.wait() == 0
    questions = [message["content"] for message in store.history(own)][::2]
    assert questions == ["before", "meanwhile", "after", "at last"]
    for number, id in enumerate(ids):
        asked = [message["content"] for message in store.history(id)][::2]
        assert asked == ["0", "1", "2", "streamed"] * (2 if number == 0 else 1)
    messages = [message["content"] for message in store.history(shared)]
    assert messages[1::2] == [f"You said: {question}" for question in messages[::2]]
    expected = [f"{number}-{said}" for number in (0, *range(FORKS)) for said in range(3)]
    assert sorted(messages[::2]) == sorted(expected)
    for id in (own, shared, *ids):
        check_conversation(store, "", id)


def prefork_with_a_client_of_its_own(channel: Channel, *, url: str, base_url: str) -> None:
    """Fork from a server with its own client, before the first call."""
    store = open_store(url, base_url)
    ids = [store.new().id for _ in range(FORKS + 1)]

    def work(number: int) -> None:
        for said in range(5):
            assert store.say(ids[number], f"{number}-{said}").text == f"You said: {number}-{said}"

    pids = [fork(lambda number=number: work(number)) for number in range(FORKS)]  # type: ignore[misc]
    work(FORKS)
    assert [wait_for(pid) for pid in pids] == [0] * FORKS
    store.close()


def test_a_client_given_to_the_store_may_be_used_on_both_sides_of_a_fork(
    zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    child = zygote.start(prefork_with_a_client_of_its_own, url=database_url, base_url=chat_server.url)
    assert child.rest() == []
    assert child.wait() == 0
    for conversation in store.list():
        assert len(store.history(conversation.id)) == 10
        check_conversation(store, "", conversation.id)


def stream_and_fork(channel: Channel, *, url: str, base_url: str, id: str, other: str, how: str) -> None:
    """Fork in the middle of a stream, and read on when the forked child has ended."""
    heartbeat.FLUSH_SECONDS = 0.01
    store = Store(url, base_url=base_url, model="test-model")
    parent = os.getpid()
    try:
        with store.stream(id, "Question") as reply:
            pieces = [next(reply)]
            forked = os.fork()
            if forked == 0:
                if how == "works":
                    assert store.say(other, "in the child").text == "You said: in the child"
                    store.close()
                if how == "leaves":
                    raise SystemExit(0)  # at the end of the block
                if how == "drops":
                    del reply, store
                    gc.collect()
                os._exit(0)
            channel.send(["exited", wait_for(forked)])
            channel.receive()
            pieces += list(reply)
        channel.send(["ended", [reply.turn.status, "".join(pieces)]])
        store.close()
    finally:
        if os.getpid() != parent:
            os._exit(0)


@pytest.mark.parametrize("how", ["exits", "drops", "works", "leaves"])
def test_a_fork_in_the_middle_of_a_stream_leaves_the_turn_to_its_parent(
    how: str, zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id, other = store.new().id, store.new().id
    go = threading.Event()

    def answer(body: JSONObject) -> Reply:
        if text_of(body["messages"][-1]) != "Question":
            return echo(body)
        return Reply("One two three", pieces=["One ", "two ", "three"], hold=go, hold_after=1)

    chat_server.otherwise = answer
    child = zygote.start(stream_and_fork, url=database_url, base_url=chat_server.url, id=id, other=other, how=how)
    assert child.receive("exited") == 0
    assert [turn.status for turn in store.turns(id)] == [TurnStatus.RUNNING]
    with pytest.raises(ConversationBusy):
        store.say(id, "impatient", wait=0)
    child.send("go")
    go.set()
    assert child.receive("ended") == ["completed", "One two three"]
    assert child.wait() == 0
    assert [message["content"] for message in store.history(id)] == ["Question", "One two three"]
    assert chat_server.disconnects == 0
    assert store.say(id, "next", wait=0).text == "You said: next"
    check_conversation(store, "", id)


def die_with_a_living_child(channel: Channel, *, url: str, base_url: str, id: str) -> None:
    """Fork in the middle of a turn; the forked child lives longer than its parent."""
    store = Store(url, base_url=base_url, model="test-model")
    with store.stream(id, "Question") as reply:
        next(reply)
        channel.send(["forked", fork(lambda: time.sleep(2 * PATIENCE))])
        channel.receive()


def test_the_turn_of_a_dead_parent_is_taken_over_at_once_while_its_forked_child_lives(
    zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id = store.new().id
    chat_server.script(Reply("One two", pieces=["One ", "two"], hold=threading.Event(), hold_after=1))
    child = zygote.start(die_with_a_living_child, url=database_url, base_url=chat_server.url, id=id)
    forked = child.receive("forked")
    try:
        with pytest.raises(ConversationBusy):
            store.say(id, "impatient", wait=0)
        child.kill()
        assert store.say(id, "next", wait=0).text == "You said: next"
        os.kill(forked, 0)  # the child lives
    finally:
        os.kill(forked, signal.SIGKILL)
    check_conversation(store, "", id)


def hold_a_turn(channel: Channel, *, url: str, base_url: str, id: str) -> None:
    store = open_store(url, base_url)
    store.say(id, "Question")


def test_many_callers_at_once_all_see_that_a_process_is_dead(
    zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id = store.new().id
    begun = threading.Event()
    chat_server.script(Reply(hold=threading.Event(), started=begun))
    child = zygote.start(hold_a_turn, url=database_url, base_url=chat_server.url, id=id)
    assert begun.wait(PATIENCE)
    with engine_of(store).connect() as connection:
        token = connection.scalar(select(conversations.c.lease_token))
    assert token is not None
    database = store._engine.transactions.database.path
    assert process_locks.is_alive(token, database) is True
    child.kill()
    together = threading.Barrier(8)

    def ask(_: int) -> set[bool | None]:
        together.wait(PATIENCE)
        return {process_locks.is_alive(token, database) for _ in range(500)}

    with ThreadPoolExecutor(8) as threads:
        assert set().union(*threads.map(ask, range(8))) == {False}


# --- closing ---


def sessions_of(url: str) -> int:
    """Return the number of a PostgreSQL database's other connections."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return int(connection.scalar(text(asked)))


def descriptors_of(path: str) -> int:
    """Return the number of this process's open files that begin with `path`."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the folder itself
            found += str(descriptor.readlink()).startswith(path)
    return found


def connections_to(url: str) -> int:
    return descriptors_of(url.removeprefix("sqlite:///")) if url.startswith("sqlite") else sessions_of(url)


def test_a_closed_store_leaves_no_thread_and_no_connection_and_can_be_used_again(
    database_url: str, chat_server: ChatServer
) -> None:
    before = connections_to(database_url)
    store = open_store(database_url, chat_server.url)
    id = store.new().id
    for time_around in range(2):

        def say(number: int, time_around: int = time_around) -> str:
            return store.say(id, f"{time_around}-{number}", wait=60).text

        with ThreadPoolExecutor(8) as threads:
            assert len(set(threads.map(say, range(8)))) == 8
        with store.stream(id, "streamed") as reply:
            list(reply)
        assert our_threads()
        assert connections_to(database_url) > before
        assert checked_out(store) == 0
        store.close()
        assert our_threads() == []
        wait_until(lambda: connections_to(database_url) == before)
    assert len(store.turns(id)) == 18
    store.close()
    store.close()
    wait_until(lambda: connections_to(database_url) == before)


def test_failures_leave_no_connection_behind(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Failure(400), Reply("Hello", cut_after=40))
    for _ in range(2):
        with pytest.raises(TurnFailed):
            store.say(id, "Hello")
    for _ in range(20):
        with pytest.raises(ConversationNotFound):
            store.say("missing", "Hello")
        with pytest.raises(InvalidInput):
            store.say(id, "Hello", temperature=9)
    assert checked_out(store) == 0
    store.close()
    assert our_threads() == []


def test_a_dropped_store_ends_its_thread(database_url: str, chat_server: ChatServer) -> None:
    store = open_store(database_url, chat_server.url, lease=0.3)
    id = store.new().id
    with store.stream(id, "Hello") as reply:
        list(reply)
    assert our_threads() == ["convstore-heartbeat"]
    runtime = weakref.ref(store._engine)
    engine_of(store).dispose()
    del store, reply
    wait_until(lambda: our_threads() == [])
    gc.collect()
    assert runtime() is None


def test_a_dropped_stream_frees_its_conversation_and_keeps_its_part(database_url: str, chat_server: ChatServer) -> None:
    with ExitStack() as stack:
        other = open_store(database_url, chat_server.url)
        stack.callback(other.close)
        id = other.new().id
        never = threading.Event()
        chat_server.script(Reply("One two", pieces=["One ", "two"], hold=never, hold_after=1))
        store = open_store(database_url, chat_server.url, lease=0.3)
        stack.callback(engine_of(store).dispose)
        reply = store.stream(id, "Question")
        assert next(reply) == "One "
        del reply, store
        gc.collect()
        assert other.say(id, "next", wait=PATIENCE).text == "You said: next"
        assert other.turns(id)[0].status is TurnStatus.INTERRUPTED
        assert other.turns(id)[0].text == "One "
        check_conversation(other, "", id)
    wait_until(lambda: our_threads() == [])


def test_a_store_that_is_closed_in_the_middle_of_a_stream_opens_again_for_its_end(
    database_url: str, chat_server: ChatServer
) -> None:
    with ExitStack() as stack:
        store = open_store(database_url, chat_server.url)
        stack.callback(store.close)
        id = store.new().id
        go = threading.Event()
        chat_server.script(Reply("One two", pieces=["One ", "two"], hold=go, hold_after=1))
        with store.stream(id, "Question") as reply:
            assert next(reply) == "One "
            store.close()  # the turn goes on, and the store reconnects for its end
            go.set()
            assert list(reply) == ["two"]
        assert reply.turn.status is TurnStatus.COMPLETED
        assert [message["content"] for message in store.history(id)] == ["Question", "One two"]
        with engine_of(store).connect() as connection:
            assert connection.scalar(select(conversations.c.lease_token)) is None
