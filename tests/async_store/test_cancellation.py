"""Test tasks that are cancelled at every point where they wait.

At any moment, the turn is whole, stopped or not begun, its conversation is free, and nothing keeps running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import pytest
from sqlalchemy import event

from convstore import AsyncStore, Store, TurnStatus
from convstore.testing import ChatServer, Failure, Reply, echo
from convstore.testing.responses import JSONObject, Response
from tests.contract.invariants import check_all
from tests.faults.driven import async_client, client

T = TypeVar("T")
When = Literal["waiting", "woken", "again and again"]


class Cancelled:
    """Await a coroutine, and cancel its task when it waits for the `at`th time.

    "waiting": cancel as soon as the task waits. "woken": cancel when the result has come and the task does not have it
    yet; the result must not be lost. "again and again": cancel as soon as the task waits, and at every later wait too.
    """

    def __init__(self, work: Coroutine[Any, Any, T], at: int, when: When) -> None:
        self._work = work
        self._at = at
        self._when = when
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        error: BaseException | None = None
        while True:
            try:
                waited_for = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as end:
                return end.value
            error = None
            self.suspensions += 1
            if self.suspensions == self._at or (self.suspensions > self._at and self._when == "again and again"):
                if self._when != "woken":
                    task.cancel()
                elif waited_for is None:
                    asyncio.get_running_loop().call_soon(task.cancel)
                else:
                    # It runs before the task's own callback, which is added after this `yield`.
                    waited_for.add_done_callback(lambda _: task.cancel())
            try:
                yield waited_for
            except BaseException as thrown:
                error = thrown


async def nothing_is_left(store: AsyncStore) -> None:
    """Assert that no task, no connection and no watched turn is left."""
    here = {asyncio.current_task()}
    for _ in range(100):  # the openai client leaves it to the loop to close
        if asyncio.all_tasks() == here:
            break
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == here
    assert store._engine.transactions.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert store._engine._heartbeat._watched == []


@asynccontextmanager
async def opened(url: str, server: ChatServer) -> AsyncIterator[AsyncStore]:
    async with async_client(server) as caller, AsyncStore(url, client=caller, model="test-model") as store:
        yield store
    check = Store(url)
    try:
        check_all(check._engine.transactions.database.engine)
    finally:
        check.close()


def sent_since(server: ChatServer, asked: int, question: str) -> list[str]:
    """Return the messages sent with a text; the request of a cancelled call may arrive as late as that one, or cut."""
    bodies = [request.body for request in server.requests[asked:] if "messages" in request.body]
    sent = [[message["content"] for message in body["messages"]] for body in bodies]
    return next(contents for contents in sent if contents[-1] == question)


async def say(store: AsyncStore, id: str, message: str) -> str:
    return (await store.say(id, message)).text


async def stream(store: AsyncStore, id: str, message: str) -> str:
    async with store.stream(id, message) as reply:
        return "".join([piece async for piece in reply])


async def say_with_key(store: AsyncStore, id: str, message: str) -> str:
    return (await store.say(id, message, idempotency_key=message)).text


WAYS = pytest.mark.parametrize("way", [say, stream, say_with_key], ids=["say", "stream", "key"])
MOMENTS = pytest.mark.parametrize("when", ["waiting", "woken", "again and again"])


@MOMENTS
@WAYS
def test_a_task_cancelled_at_any_await_leaves_a_whole_turn_a_stopped_one_or_none(
    database_url: str,
    chat_server: ChatServer,
    way: Callable[[AsyncStore, str, str], Coroutine[Any, Any, str]],
    when: When,
) -> None:
    async def main() -> tuple[int, set[str]]:
        seen: set[str] = set()
        undisturbed = 0
        async with opened(database_url, chat_server) as store:
            await store.client.models.list()  # the connection exists, as in a running server
            at = 0
            while undisturbed < 4:  # how often a call waits for the network is not always the same
                at += 1
                id = (await store.new(system="S")).id
                work = Cancelled(way(store, id, "Question"), at, when)
                task = asyncio.ensure_future(_awaited(work))
                done, _ = await asyncio.wait({task}, timeout=60)
                assert done, f"cancelled at {at}, the task does not end"
                await nothing_is_left(store)
                if not task.cancelled():
                    assert task.result() == "You said: Question"
                    assert work.suspensions < at, "a cancelled call does not go on as if nothing had been"
                    undisturbed += 1
                    continue
                turns = await store.turns(id)
                path = [message["content"] for message in await store.history(id)]
                statuses = [turn.status.value for turn in turns]
                seen.update(statuses or ["none"])
                if statuses == ["completed"]:
                    assert path == ["S", "Question", "You said: Question"]
                elif statuses == ["interrupted"]:
                    assert turns[0].error is not None
                    assert turns[0].error["type"] == "Stopped"
                    assert path == (["S", "Question", turns[0].text] if turns[0].text else ["S"])
                    assert "You said: Question".startswith(turns[0].text)
                else:
                    assert statuses == []
                    assert path == ["S"]
                asked = len(chat_server.requests)
                assert await way(store, id, "Next") == "You said: Next", f"cancelled at {at}"
                sent = sent_since(chat_server, asked, "Next")
                assert sent == [*path, "Next"]
        return at - undisturbed, seen

    tried, seen = asyncio.run(main())
    assert tried >= 5
    assert "interrupted" in seen


class _Interrupter:
    """Cancel a task while its thread is at the `at`th statement or commit, and again while the task waits."""

    def __init__(self, store: AsyncStore, at: int, times: int) -> None:
        self._at = at
        self._times = times
        self._engine = store._engine.transactions.database.engine
        self._loop = asyncio.get_running_loop()
        self.task: asyncio.Future[Any] | None = None
        self.count = 0

    def __enter__(self) -> _Interrupter:
        for hook in ("before_cursor_execute", "commit"):
            event.listen(self._engine, hook, self._strike)
        return self

    def __exit__(self, *_: object) -> None:
        for hook in ("before_cursor_execute", "commit"):
            event.remove(self._engine, hook, self._strike)

    def _strike(self, *_: object) -> None:
        if self.task is None:
            return
        self.count += 1
        if self.count != self._at:
            return
        for _time in range(self._times):
            told = threading.Event()
            self._loop.call_soon_threadsafe(self.task.cancel)
            # The task has been woken by now, and waits again for this thread.
            self._loop.call_soon_threadsafe(lambda: self._loop.call_soon(self._loop.call_soon, told.set))  # noqa: B023
            assert told.wait(60)


@pytest.mark.parametrize("times", [1, 3], ids=["once", "thrice"])
@WAYS
def test_a_task_cancelled_during_a_write_ends_after_the_write(
    database_url: str,
    chat_server: ChatServer,
    way: Callable[[AsyncStore, str, str], Coroutine[Any, Any, str]],
    times: int,
) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        async with opened(database_url, chat_server) as store:
            at = 0
            while True:
                at += 1
                id = (await store.new()).id
                with _Interrupter(store, at, times) as interrupter:
                    interrupter.task = asyncio.ensure_future(way(store, id, "Question"))
                    done, _ = await asyncio.wait({interrupter.task}, timeout=60)
                    assert done
                await nothing_is_left(store)
                if not interrupter.task.cancelled():
                    assert interrupter.count < at
                    return seen
                (turn,) = await store.turns(id)
                path = [message["content"] for message in await store.history(id)]
                assert path == ([] if turn.status is TurnStatus.INTERRUPTED else ["Question", "You said: Question"])
                seen.append(turn.status.value)
                assert (await store.say(id, "Next", wait=0)).text == "You said: Next", f"cancelled at {at}"

    seen = asyncio.run(main())
    began, ended = seen.count("interrupted"), seen.count("completed")
    # Cancelled at the begin: the turn was undone. Cancelled at the end: the reply was stored.
    assert seen == ["interrupted"] * began + ["completed"] * ended
    assert began >= 4
    assert ended >= 4


async def _awaited(work: Cancelled) -> Any:
    return await work


@MOMENTS
def test_other_calls_cancelled_at_any_await_are_done_or_not_done(
    database_url: str, chat_server: ChatServer, when: When
) -> None:
    calls: dict[str, Callable[[AsyncStore, str], Coroutine[Any, Any, Any]]] = {
        "append": lambda store, id: store.append(id, "Hi"),
        "append with a key": lambda store, id: store.append(id, "Hi", idempotency_key="k"),
        "new": lambda store, id: store.new(id=f"{id}-new"),
        "set": lambda store, id: store.set(id, title="T"),
        "history": lambda store, id: store.history(id),
        "turns": lambda store, id: store.turns(id),
        "list": lambda store, id: store.list(),
        "stop": lambda store, id: store.stop(id),
        "preview": lambda store, id: store.preview(id, "Hi"),
    }

    async def main() -> None:
        async with opened(database_url, chat_server) as store:
            for name, call in calls.items():
                at = 0
                cancelled = True
                while cancelled:
                    at += 1
                    id = (await store.new()).id
                    task = asyncio.ensure_future(_awaited(Cancelled(call(store, id), at, when)))
                    await asyncio.wait({task}, timeout=60)
                    cancelled = task.cancelled()
                    await nothing_is_left(store)
                    assert len(await store.history(id)) in (0, 1), name
                    assert await say(store, id, "Next") == "You said: Next"
                assert at > 1, name

    asyncio.run(main())


SPOKEN = [{"role": role, "content": f"{role} {number}"} for number in range(3) for role in ("user", "assistant")]


def at_most_five(body: JSONObject) -> Response:
    too_long = Failure(400, "This model's maximum context length is 50 tokens.", code="context_length_exceeded")
    return too_long if len(body["messages"]) > 5 and not body.get("stream") else echo(body)


async def edit(store: AsyncStore, id: str) -> object:
    return await store.edit(id, 3, "Otherwise")


async def edit_streamed(store: AsyncStore, id: str) -> object:
    async with store.edit_stream(id, 3, "Otherwise") as reply:
        return [piece async for piece in reply]


async def complete(store: AsyncStore, id: str) -> object:
    return await store.complete(id)


async def trimmed(store: AsyncStore, id: str) -> object:
    return await store.say(id, "Otherwise", on_overflow="trim")


async def compact(store: AsyncStore, id: str) -> object:
    return await store.compact(id, keep_last=1)


async def undo(store: AsyncStore, id: str) -> object:
    return await store.undo(id)


async def fork(store: AsyncStore, id: str) -> object:
    return await store.fork(id, new_id=f"{id}-fork")


@pytest.mark.parametrize(
    ("way", "when"),
    [
        *((way, "again and again") for way in (edit, edit_streamed, complete, trimmed, compact, undo, fork)),
        *((way, "woken") for way in (edit, edit_streamed, compact)),
        *((way, "waiting") for way in (trimmed, compact)),
    ],
)
def test_operations_on_the_tree_cancelled_at_any_await_are_done_stopped_or_not_done(
    database_url: str,
    chat_server: ChatServer,
    way: Callable[[AsyncStore, str], Coroutine[Any, Any, object]],
    when: When,
) -> None:
    base = [*SPOKEN, {"role": "user", "content": "Otherwise"}] if way is complete else SPOKEN
    if way is trimmed:
        chat_server.otherwise = at_most_five
    before = [message["content"] for message in base]
    stem = before[:2] if way in (edit, edit_streamed) else before
    stem = [*stem, "Otherwise"] if way is not complete else stem

    async def main() -> tuple[int, set[str]]:
        seen: set[str] = set()
        undisturbed = at = 0
        async with opened(database_url, chat_server) as store:
            await store.client.models.list()
            while undisturbed < 2:
                at += 1
                id = (await store.new(messages=base)).id
                work = Cancelled(way(store, id), at, when)
                task = asyncio.ensure_future(_awaited(work))
                done, _ = await asyncio.wait({task}, timeout=60)
                assert done, f"cancelled at {at}, the task does not end"
                await nothing_is_left(store)
                if not task.cancelled():
                    task.result()
                    undisturbed += 1
                    continue
                path = [message["content"] for message in await store.history(id)]
                turns = await store.turns(id)
                statuses = [turn.status.value for turn in turns]
                present = await store.summary(id)
                if way in (compact, undo, fork):
                    assert path == before or (way is undo and path == before[:4])
                    assert statuses == (["completed"] if present is not None else [])
                elif statuses == ["completed"]:
                    assert path == [*stem, "You said: Otherwise"]
                elif statuses == ["interrupted"]:
                    assert turns[0].error is not None
                    assert turns[0].error["type"] == "Stopped"
                    assert path == ([*stem, turns[0].text] if turns[0].text else before)
                else:
                    assert statuses == []
                    assert path == before
                seen.update(statuses or ["none"])
                asked = len(chat_server.requests)
                async with store.stream(id, "Next") as reply:
                    assert "".join([piece async for piece in reply]) == "You said: Next", f"cancelled at {at}"
                sent = sent_since(chat_server, asked, "Next")
                done_before = present.up_to_position if present is not None else 0
                assert sent[2 if done_before else 0 :] == [*path[done_before:], "Next"]
        return at - undisturbed, seen

    tried, seen = asyncio.run(main())
    if way in (edit, edit_streamed, complete, trimmed):
        assert tried >= 5
        assert "interrupted" in seen
    assert tried >= 1


def test_a_cancelled_waiting_caller_has_not_called_the_model(database_url: str, chat_server: ChatServer) -> None:
    async def main() -> None:
        async with opened(database_url, chat_server) as store:
            id = (await store.new()).id
            go = threading.Event()
            chat_server.script(Reply(pieces=["a", "b"], hold=go, hold_after=1))
            async with store.stream(id, "Long") as running:
                assert await anext(running) == "a"
                for at in range(1, 9):  # begin, wait, look, wait, look …
                    task = asyncio.ensure_future(_awaited(Cancelled(say(store, id, "Mine"), at, "waiting")))
                    await asyncio.wait({task}, timeout=60)
                    assert task.cancelled()
                go.set()
                assert [piece async for piece in running] == ["b"]
            assert [turn.text for turn in await store.turns(id)] == ["ab"]
            assert await say(store, id, "Next") == "You said: Next"

    asyncio.run(main())


def test_a_stream_in_a_cancelled_task_keeps_its_partial_reply_on_the_path(
    database_url: str, chat_server: ChatServer
) -> None:
    async def main() -> None:
        async with opened(database_url, chat_server) as store:
            id = (await store.new()).id
            chat_server.script(Reply(pieces=["Hel", "lo"], hold=threading.Event(), hold_after=1))
            came = asyncio.Event()

            async def read() -> None:
                async with store.stream(id, "Hi") as reply:
                    async for _ in reply:
                        came.set()

            task = asyncio.create_task(read())
            await came.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await store.history(id) == [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hel"},
            ]
            assert (await store.turns(id))[0].status is TurnStatus.INTERRUPTED
            assert chat_server.wait_disconnect()
            await nothing_is_left(store)

    asyncio.run(main())


def test_a_callers_timeout_counts_as_a_stop(database_url: str, chat_server: ChatServer) -> None:
    async def main() -> None:
        async with opened(database_url, chat_server) as store:
            id = (await store.new()).id
            chat_server.script(Reply("Never", hold=threading.Event()))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await store.say(id, "Hi")
            assert (await store.turns(id))[0].status is TurnStatus.INTERRUPTED
            assert await store.history(id) == []
            assert (await store.say(id, "Next", wait=0)).text == "You said: Next"

    asyncio.run(main())


def test_the_end_of_the_event_loop_ends_its_turns_and_loses_nothing(database_url: str, chat_server: ChatServer) -> None:
    ids: list[str] = []
    store: AsyncStore | None = None

    async def main() -> None:
        nonlocal store
        caller = async_client(chat_server)
        store = AsyncStore(database_url, client=caller, model="test-model")
        ids.extend([(await store.new()).id for _ in range(4)])
        begun = asyncio.Event()

        async def read(id: str) -> None:
            async with store.stream(id, "Hi") as reply:
                async for _ in reply:
                    begun.set()

        chat_server.script(Reply(pieces=["Hel", "lo"], hold=threading.Event(), hold_after=1))
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(read(ids[0]))]
        await begun.wait()
        held = threading.Event()
        chat_server.script(Reply("Never", hold=threading.Event(), started=held))
        tasks.append(asyncio.create_task(say(store, ids[1], "Hi")))
        assert await asyncio.to_thread(held.wait, 10)
        # These are about to begin, or to append, when the loop ends.
        tasks.append(asyncio.create_task(say(store, ids[2], "Hi")))
        tasks.append(asyncio.create_task(store.append(ids[3], "Hi")))
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)

    asyncio.run(main())
    assert store is not None
    store._threads.close()
    assert store._engine._heartbeat._watched == []
    store._engine.close()
    with client(chat_server) as caller, Store(database_url, client=caller, model="test-model") as after:
        contents = [[message["content"] for message in after.history(id)] for id in ids]
        assert contents[0] == ["Hi", "Hel"]
        assert contents[1:3] == [[], []]
        assert contents[3] in ([], ["Hi"])
        for id in ids:
            assert {turn.status for turn in after.turns(id)} <= {TurnStatus.INTERRUPTED}
            assert after.say(id, "Next", wait=0).text == "You said: Next"
        check_all(after._engine.transactions.database.engine)
