"""Test `AsyncStore`, and both stores inside the caller's own transaction."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from sqlalchemy import Engine, create_engine

from convstore import (
    AsyncStore,
    ConversationBusy,
    ConversationExists,
    ConversationNotFound,
    IdempotencyMismatch,
    InvalidInput,
    ReplyInterrupted,
    Store,
    TurnFailed,
)
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.invariants import check_all
from tests.faults.driven import async_client, client


@asynccontextmanager
async def opened(url: str, server: ChatServer, **options: Any) -> AsyncIterator[AsyncStore]:
    async with async_client(server) as caller, AsyncStore(url, client=caller, model="test-model", **options) as store:
        yield store


@pytest.fixture
def run(database_url: str, chat_server: ChatServer) -> Iterator[Callable[..., None]]:
    """Return a function that runs a test's body with a store in an event loop, and then checks the rows."""

    def run(body: Callable[[AsyncStore], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with opened(database_url, chat_server) as store:
                await body(store)

        asyncio.run(main())

    yield run
    engine = create_engine(database_url)
    check_all(engine)
    engine.dispose()


def contents(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["content"] for message in messages]


# --- the basics ---


def test_a_dialogue_is_remembered(run: Callable[..., None], chat_server: ChatServer) -> None:
    async def body(store: AsyncStore) -> None:
        made = await store.new("Games", system="Be brief.", id="games", temperature=0.2)
        assert await store.get("ga") == made
        turn = await store.say(made.id, "Where?")
        assert (turn.text, turn.status) == ("You said: Where?", "completed")
        async with store.stream(made.id, "When?") as reply:
            pieces = [piece async for piece in reply]
        assert len(pieces) > 1
        assert "".join(pieces) == reply.text == reply.turn.text == "You said: When?"
        path = ["Be brief.", "Where?", "You said: Where?", "When?", "You said: When?"]
        assert contents(await store.history(made.id)) == path
        assert contents(chat_server.requests[-1].body["messages"]) == path[:-1]
        assert chat_server.requests[-1].body["temperature"] == 0.2
        assert [record.position for record in await store.append(made.id, "Noted.")] == [6]
        assert (await store.set(made.id, title="Renamed")).title == "Renamed"
        assert [found.id for found in await store.list()] == ["games"]
        assert [found.seq for found in await store.turns(made.id)] == [1, 2]
        preview = await store.preview(made.id, "And?")
        assert contents(preview["messages"]) == [*path, "Noted.", "And?"]
        assert (await store.retry(made.id)).text == "You said: When?"

    run(body)


def test_it_raises_the_same_errors_as_store(run: Callable[..., None], chat_server: ChatServer) -> None:
    async def body(store: AsyncStore) -> None:
        with pytest.raises(ConversationNotFound):
            await store.say("nowhere", "Hi")
        id = (await store.new()).id
        with pytest.raises(InvalidInput):
            await store.say(id, "")
        with pytest.raises(InvalidInput):
            store.stream(id, "Hi", temperature=3)
        chat_server.script(Failure(500), Reply("Half", finish_reason=None))
        with pytest.raises(TurnFailed):
            await store.say(id, "Hi")
        stream = store.stream(id, "Hi")
        assert "".join([await anext(stream)]) == "Half"
        with pytest.raises(ReplyInterrupted) as caught:
            await anext(stream)
        assert caught.value.partial == {"role": "assistant", "content": "Half"}
        assert [turn.status for turn in await store.unanswered(id)] == ["failed", "interrupted"]
        await store.say(id, "Hi", idempotency_key="k")
        with pytest.raises(IdempotencyMismatch):
            await store.say(id, "Bye", idempotency_key="k")

    run(body)


def test_owners_see_only_their_own_conversations(run: Callable[..., None]) -> None:
    async def body(store: AsyncStore) -> None:
        ann = store.for_owner("ann")
        await ann.new(id="hers")
        assert (ann.owner, store.owner) == ("ann", "")
        assert await store.list() == []
        assert (await ann.say("hers", "Hi")).text == "You said: Hi"
        with pytest.raises(ConversationNotFound):
            await store.say("hers", "Hi")

    run(body)


def test_a_second_caller_waits_without_blocking_the_event_loop(
    run: Callable[..., None], chat_server: ChatServer
) -> None:
    async def body(store: AsyncStore) -> None:
        id = (await store.new()).id
        go, begun = threading.Event(), threading.Event()
        chat_server.script(Reply("First.", hold=go, started=begun))
        first = asyncio.create_task(store.say(id, "One"))
        assert await asyncio.to_thread(begun.wait, 10)
        second = asyncio.create_task(store.say(id, "Two"))
        added = asyncio.create_task(store.append(id, "Three"))
        with pytest.raises(ConversationBusy):
            await store.say(id, "Refused", wait=0)
        with pytest.raises(ConversationBusy):
            await store.append(id, "Refused", wait=0)
        assert not second.done()
        go.set()
        await asyncio.gather(first, second, added)
        path = contents(await store.history(id))
        assert path[:2] == ["One", "First."]
        assert sorted(path) == sorted(["One", "First.", "Two", "You said: Two", "Three"])
        assert path.index("You said: Two") == path.index("Two") + 1

    run(body)


def test_64_tasks_at_once_each_have_their_turn(run: Callable[..., None], chat_server: ChatServer) -> None:
    async def body(store: AsyncStore) -> None:
        ids = [made.id for made in await asyncio.gather(*(store.new() for _ in range(64)))]
        said = await asyncio.gather(*(store.say(id, f"Hi {id}") for id in ids))
        assert [turn.text for turn in said] == [f"You said: Hi {id}" for id in ids]
        histories = await asyncio.gather(*(store.history(id) for id in ids))
        assert all(
            contents(history) == [f"Hi {id}", f"You said: Hi {id}"] for id, history in zip(ids, histories, strict=True)
        )

    run(body)


def test_tasks_that_share_a_conversation_never_interleave(run: Callable[..., None], chat_server: ChatServer) -> None:
    async def body(store: AsyncStore) -> None:
        id = (await store.new()).id

        async def stream(number: int) -> None:
            async with store.stream(id, f"s{number}", wait=60) as reply:
                assert "".join([piece async for piece in reply]) == f"You said: s{number}"

        says = (store.say(id, f"w{number}", wait=60) for number in range(8))
        await asyncio.gather(*says, *(stream(number) for number in range(8)))
        path = contents(await store.history(id))
        assert len(path) == 32
        assert path[1::2] == [f"You said: {question}" for question in path[::2]]

    run(body)


def test_one_key_from_many_tasks_is_one_call(run: Callable[..., None], chat_server: ChatServer) -> None:
    async def body(store: AsyncStore) -> None:
        id = (await store.new()).id
        said = await asyncio.gather(*(store.say(id, "Hi", idempotency_key="k", wait=60) for _ in range(32)))
        assert {turn.seq for turn in said} == {1}
        assert len(chat_server.requests) == 1

    run(body)


def test_many_streams_are_stopped_at_once(run: Callable[..., None], chat_server: ChatServer) -> None:
    async def body(store: AsyncStore) -> None:
        chat_server.otherwise = lambda _: Reply(pieces=["a"] * 3000, delay=0.02)
        ids = [(await store.new()).id for _ in range(20)]  # more than the pool has threads
        begun = [asyncio.Event() for _ in ids]

        async def read(id: str, begun: asyncio.Event) -> str:
            async with store.stream(id, "Go on") as reply:
                async for _ in reply:
                    begun.set()
            return reply.turn.status

        reading = [asyncio.create_task(read(id, event)) for id, event in zip(ids, begun, strict=True)]
        await asyncio.gather(*(event.wait() for event in begun))
        assert await asyncio.gather(*(store.stop(id, wait=30) for id in ids)) == [True] * 20
        assert await asyncio.gather(*reading) == ["interrupted"] * 20

    run(body)


def test_reading_a_stream_starts_no_task_for_every_piece(run: Callable[..., None], chat_server: ChatServer) -> None:
    async def body(store: AsyncStore) -> None:
        id = (await store.new()).id
        assert (await store.client.models.list()).data  # the connection exists by now
        started: list[object] = []

        def start(loop: asyncio.AbstractEventLoop, work: Any, **how: Any) -> asyncio.Task[Any]:
            started.append(work)
            return asyncio.Task(work, loop=loop, **how)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(start)
        try:
            async with store.stream(id, "Many words. " * 20) as reply:
                pieces = [piece async for piece in reply]
            await asyncio.sleep(0)
        finally:
            loop.set_task_factory(None)
        assert len(pieces) > 40
        assert len(started) < 10  # at the end, the iterator raises openai's error

    run(body)


def test_an_abandoned_async_stream_does_not_hold_its_conversation(
    run: Callable[..., None], chat_server: ChatServer
) -> None:
    async def body(store: AsyncStore) -> None:
        id = (await store.new()).id
        chat_server.script(Reply(pieces=["Hel", "lo"], hold=threading.Event(), hold_after=1))
        async for _ in store.stream(id, "Hi"):
            break  # without `async with`
        assert (await store.say(id, "Next", wait=20)).text == "You said: Next"
        assert contents(await store.history(id)) == ["Hi", "Hel", "Next", "You said: Next"]

    run(body)


# --- opening and closing ---


def test_leaving_the_block_closes_connections_and_threads(database_url: str, chat_server: ChatServer) -> None:
    async def main() -> AsyncStore:
        async with opened(database_url, chat_server) as store:
            id = (await store.new()).id
            async with store.stream(id, "Hi") as reply:
                async for _ in reply:
                    pass
            assert [thread for thread in threading.enumerate() if thread.name.startswith("convstore")]
        return store

    store = asyncio.run(main())
    assert [thread for thread in threading.enumerate() if thread.name.startswith("convstore")] == []
    assert store._engine.transactions.database.engine.pool.checkedin() == 0  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_store_may_be_used_in_one_event_loop_after_another(
    database_url: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody can close the connections of a loop that has ended, hence the warnings.
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    store = AsyncStore(database_url, base_url=chat_server.url, model="test-model")

    async def talk(number: int) -> str:
        id = (await store.new()).id
        async with store.stream(id, f"stream {number}") as reply:
            async for _ in reply:
                pass
        return (await store.say(id, f"say {number}")).text

    assert [asyncio.run(talk(number)) for number in range(3)] == [f"You said: say {number}" for number in range(3)]
    asyncio.run(store.close())
    assert asyncio.run(talk(4)) == "You said: say 4"  # a closed store opens again
    asyncio.run(store.close())
    gc.collect()  # here, where the warnings are expected


def test_a_callers_client_loses_its_retries_and_stays_open(database_url: str, chat_server: ChatServer) -> None:
    async def main() -> None:
        async with async_client(chat_server, max_retries=5) as caller:
            async with AsyncStore(database_url, client=caller, model="test-model", retries=0) as store:
                id = (await store.new()).id
                chat_server.script(Failure(500), Failure(503, retry_after=0))
                for _ in range(2):
                    with pytest.raises(TurnFailed):
                        await store.say(id, "Hi")
            assert len(chat_server.requests) == 2
            assert [model.id async for model in caller.models.list()] == ["test-model"]
            assert isinstance(store.client, openai.AsyncOpenAI)

    asyncio.run(main())


# --- inside the caller's own transaction ---


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Return an engine of the application, with SQLAlchemy's defaults."""
    engine = create_engine(database_url)
    yield engine
    check_all(engine)
    engine.dispose()


@pytest.fixture
def store(database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with client(chat_server) as caller, Store(database_url, client=caller, model="test-model") as store:
        store.new(id="there", system="S")
        yield store


class RolledBack(Exception):
    pass


def test_work_in_a_transaction_is_committed_with_it(store: Store, engine: Engine) -> None:
    with engine.begin() as connection:
        mine = store.using(connection)
        mine.new(id="x", messages=[{"role": "user", "content": "Hi"}])
        assert [record.position for record in mine.append("x", "more", "and more")] == [2, 3]
        mine.append("there", "Hello", idempotency_key="k")
        mine.set("x", title="T", temperature=1)
        assert contents(mine.history("x")) == ["Hi", "more", "and more"]
        assert mine.get("x").title == "T"
        assert {found.id for found in mine.list()} == {"x", "there"}
    assert contents(store.history("x")) == ["Hi", "more", "and more"]
    assert (store.get("x").title, store.get("x").settings) == ("T", {"temperature": 1})
    assert contents(store.history("there")) == ["S", "Hello"]
    assert store.say("x", "Now").text == "You said: Now"


def test_work_in_a_transaction_is_rolled_back_with_it(store: Store, engine: Engine) -> None:
    before = store.get("there")

    def work() -> None:
        with engine.begin() as connection:
            mine = store.using(connection)
            mine.new(id="x")
            mine.append("x", "Hi")
            mine.append("there", "Hello", idempotency_key="k")
            mine.set("there", title="T", name="n")
            assert contents(mine.history("there")) == ["S", "Hello"]
            raise RolledBack

    with pytest.raises(RolledBack):
        work()
    assert store.get("there") == before
    assert contents(store.history("there")) == ["S"]
    with pytest.raises(ConversationNotFound):
        store.history("x")
    assert store.append("there", "Other", idempotency_key="k")[0].seq == 2  # neither the key nor the number is used
    assert store.say("there", "Now").text == "You said: Now"


def test_a_transaction_view_has_the_owner_of_its_store(store: Store, engine: Engine) -> None:
    with engine.begin() as connection:
        store.for_owner("ann").using(connection).new(id="hers")
        store.using(connection).for_owner("bob").new(id="his")
        assert [found.id for found in store.using(connection).list()] == ["there"]
    assert [found.id for found in store.for_owner("ann").list()] == ["hers"]
    assert [found.id for found in store.for_owner("bob").list()] == ["his"]


def test_in_a_transaction_a_running_turn_is_an_error_at_once(
    store: Store, engine: Engine, chat_server: ChatServer
) -> None:
    go = threading.Event()
    chat_server.script(Reply(pieces=["a", "b"], hold=go, hold_after=1))
    with store.stream("there", "Long") as reply:
        assert next(reply) == "a"
        with engine.begin() as connection:
            with pytest.raises(ConversationBusy):
                store.using(connection).append("there", "Mine", wait=60)
            store.using(connection).new(id="x")  # the transaction can still be used
        go.set()
        assert list(reply) == ["b"]
    assert contents(store.history("there")) == ["S", "Long", "ab"]
    assert store.get("x").length == 0


def test_after_a_refused_call_the_transaction_can_still_be_used(store: Store, engine: Engine) -> None:
    store.new(id="x", name="taken")
    store.append("x", "Hi", idempotency_key="k")
    with engine.begin() as connection:
        mine = store.using(connection)
        with pytest.raises(ConversationExists):
            mine.new(id="x", title="other")
        with pytest.raises(ConversationExists):
            mine.new(id="y", name="taken")
        with pytest.raises(ConversationExists):
            mine.set("there", name="taken")
        with pytest.raises(ConversationNotFound):
            mine.append("nowhere", "Hi")
        with pytest.raises(InvalidInput):
            mine.append("there", {"content": "no role"})
        with pytest.raises(IdempotencyMismatch):
            mine.append("x", "Bye", idempotency_key="k")
        mine.append("there", "Still here")
    assert contents(store.history("there")) == ["S", "Still here"]


def test_it_works_in_the_transaction_of_an_asyncio_application(postgres_url: str, chat_server: ChatServer) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    async def main() -> None:
        engine = create_async_engine(postgres_url)
        async with opened(postgres_url, chat_server) as store:
            await store.new(id="there", system="S")
            async with engine.begin() as connection:
                mine = store.using(connection)
                await mine.new(id="x")
                assert [record.position for record in await mine.append("x", "Hi")] == [1]
                await mine.append("there", "Hello", idempotency_key="k")
                await mine.set("x", title="T")
                assert contents(await mine.history("there")) == ["S", "Hello"]
                with pytest.raises(ConversationNotFound):
                    await store.history("x")  # nobody else sees it yet
            assert contents(await store.history("x")) == ["Hi"]
            assert (await store.get("x")).title == "T"

            async with engine.connect() as connection:
                await store.using(connection).append("there", "Gone")
                await store.for_owner("ann").using(connection).new(id="hers")
                await connection.rollback()
            assert contents(await store.history("there")) == ["S", "Hello"]
            assert await store.for_owner("ann").list() == []

            go = threading.Event()
            chat_server.script(Reply(pieces=["a", "b"], hold=go, hold_after=1))
            async with store.stream("there", "Long") as reply:
                assert await anext(reply) == "a"
                async with engine.begin() as connection:
                    with pytest.raises(ConversationBusy):
                        await store.using(connection).append("there", "Mine", wait=60)
                go.set()
                assert [piece async for piece in reply] == ["b"]
        await engine.dispose()

    asyncio.run(main())


def test_on_postgresql_a_call_waits_for_a_conversation_in_another_transaction(
    postgres_url: str, chat_server: ChatServer
) -> None:
    engine = create_engine(postgres_url)
    with client(chat_server) as caller, Store(postgres_url, client=caller, model="test-model") as store:
        store.new(id="x")
        with engine.begin() as connection:
            store.using(connection).append("x", "Mine")
            with pytest.raises(ConversationBusy, match="another transaction"):
                store.say("x", "Hi", wait=0)
            with pytest.raises(ConversationBusy, match="another transaction"):
                store.append("x", "Hi", wait=0)
        assert store.say("x", "Hi", wait=0).text == "You said: Hi"
        assert contents(store.history("x")) == ["Mine", "Hi", "You said: Hi"]
    check_all(engine)
    engine.dispose()
