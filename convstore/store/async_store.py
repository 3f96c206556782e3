"""`AsyncStore`: what `Store` is, for asyncio.

There is no second body. The work on the database is the sync code, run on a small pool of threads, one hop for each
transaction: a write that a thread has begun is finished even when its task is cancelled, or the event loop shut down.
Only the model is called with `await`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import Engine

from convstore.conversations import queries
from convstore.db import lease_rows
from convstore.db.turn_writes import Ending
from convstore.errors import ConversationBusy, ConvstoreError
from convstore.leases import process_locks
from convstore.messages.completion import read_completion
from convstore.messages.token_estimate import Counter, estimate
from convstore.provider import openai_client
from convstore.store.async_methods import AsyncBorrowedConversations, AsyncConversations, documented_as
from convstore.store.async_reply_stream import AsyncReplyStream, Steps
from convstore.store.model_methods import WORTH_A_SUMMARY
from convstore.store.store import FOLLOW_SECONDS, LEASE_SECONDS, RETRIES, Store, open_given, request_stop, still_holds
from convstore.store.thread_pool import Threads
from convstore.turns.model_call import acall
from convstore.turns.runtime import Live, Runtime, pauses
from convstore.turns.turn_outcome import compaction_due, settle
from convstore.turns.turn_request import Kind, Question
from convstore.usage.prices import price_source
from convstore.values.results import Request, Summary, Turn
from convstore.values.validation import OnBusy, check_owner, check_wait, known_id, patience

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from sqlalchemy.ext.asyncio import AsyncConnection

    from convstore.turns.compaction import Compaction

R = TypeVar("R")


class AsyncStore(AsyncConversations):
    """Conversations in a database, for asyncio: the same as `Store`, with `await`.

    >>> async with AsyncStore("postgresql://app@localhost/app") as store:
    ...     conversation = await store.new(model="gpt-4o-mini")
    ...     turn = await store.say(conversation.id, "Hello!")

    Cancelling a task that says something counts as the user's stop: what came is kept, and the conversation is free.

    Args:
        As `Store`; `client` is an `openai.AsyncOpenAI`. The database's driver is the same, sync one.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        client: AsyncOpenAI | None = None,
        engine: Engine | None = None,
        owner: str = "",
        base_url: str | None = None,
        model: str | None = None,
        retries: int = RETRIES,
        lease: float = LEASE_SECONDS,
        count_tokens: Counter | None = None,
        prices: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> None:
        self._owner = check_owner(owner)
        self._model = model
        self._runtime = Runtime(
            open_given(url, engine),
            client,
            partial(openai_client.make_async_client, base_url),
            lease=timedelta(seconds=lease),
            retries=retries,
            count=count_tokens or estimate,
            prices=price_source(prices),
        )
        self._threads = Threads()

    @property
    def client(self) -> AsyncOpenAI:
        """The client that calls the model: the caller's, else one made from the environment when it is first needed.

        Raises:
            NotConfigured: there is neither a key nor a server.
        """
        client: AsyncOpenAI = self._runtime.client()
        return client

    @documented_as(Store.using)
    def using(self, connection: AsyncConnection) -> AsyncBorrowedConversations:
        return AsyncBorrowedConversations(connection, self._owner, self._runtime.count, self._runtime.prices)

    @documented_as(Store.close)
    async def close(self) -> None:
        client = self._runtime.forget_client(asyncio.get_running_loop())
        if client is not None:
            await client.close()
        await self._threads.run(self._runtime.close)
        self._threads.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @documented_as(Store.say)
    async def say(
        self,
        conversation_id: str,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool | None = None,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        question = self._sync._question(
            message,
            parameters,
            system=system,
            name=name,
            history=history,
            idempotency_key=idempotency_key,
            expected_head=expected_head,
        )
        return await self._answered(conversation_id, question, patience(on_busy, wait))

    @documented_as(Store.complete)
    async def complete(
        self,
        conversation_id: str,
        *,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        question = self._sync._question(
            None, parameters, kind=Kind.COMPLETE, idempotency_key=idempotency_key, expected_head=expected_head
        )
        return await self._answered(conversation_id, question, patience(on_busy, wait))

    @documented_as(Store.edit)
    async def edit(
        self,
        conversation_id: str,
        position: int,
        message: object,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        question = self._sync._question(
            message, parameters, kind=Kind.EDIT, position=position, expected_head=expected_head
        )
        return await self._answered(conversation_id, question, patience(on_busy, wait))

    @documented_as(Store.retry)
    async def retry(
        self,
        conversation_id: str,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        question = self._sync._question(None, parameters, kind=Kind.AGAIN, expected_head=expected_head)
        return await self._answered(conversation_id, question, patience(on_busy, wait))

    @documented_as(Store.stream)
    def stream(
        self,
        conversation_id: str,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool | None = None,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> AsyncReplyStream:
        question = self._sync._question(
            message,
            parameters,
            system=system,
            name=name,
            history=history,
            idempotency_key=idempotency_key,
            expected_head=expected_head,
            stream=True,
        )
        return self._reply(conversation_id, question, patience(on_busy, wait))

    @documented_as(Store.complete_stream)
    def complete_stream(
        self,
        conversation_id: str,
        *,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> AsyncReplyStream:
        question = self._sync._question(
            None,
            parameters,
            kind=Kind.COMPLETE,
            idempotency_key=idempotency_key,
            expected_head=expected_head,
            stream=True,
        )
        return self._reply(conversation_id, question, patience(on_busy, wait))

    @documented_as(Store.edit_stream)
    def edit_stream(
        self,
        conversation_id: str,
        position: int,
        message: object,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> AsyncReplyStream:
        question = self._sync._question(
            message, parameters, kind=Kind.EDIT, position=position, expected_head=expected_head, stream=True
        )
        return self._reply(conversation_id, question, patience(on_busy, wait))

    @documented_as(Store.retry_stream)
    def retry_stream(
        self,
        conversation_id: str,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> AsyncReplyStream:
        question = self._sync._question(None, parameters, kind=Kind.AGAIN, expected_head=expected_head, stream=True)
        return self._reply(conversation_id, question, patience(on_busy, wait))

    @documented_as(Store.preview)
    async def preview(
        self,
        conversation_id: str | None,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool | None = None,
        expected_head: int | None = None,
        stream: bool = False,
        **parameters: Any,
    ) -> Request:
        return await self._threads.run(
            partial(
                self._sync.preview,
                conversation_id,
                message,
                system=system,
                name=name,
                history=history,
                expected_head=expected_head,
                stream=stream,
                **parameters,
            )
        )

    @documented_as(Store.preview_complete)
    async def preview_complete(
        self, conversation_id: str, *, expected_head: int | None = None, stream: bool = False, **parameters: Any
    ) -> Request:
        preview = partial(self._sync.preview_complete, conversation_id, expected_head=expected_head, stream=stream)
        return await self._threads.run(partial(preview, **parameters))

    @documented_as(Store.compact)
    async def compact(
        self, conversation_id: str, *, keep_last: int | None = None, model: str | None = None, **parameters: Any
    ) -> list[Summary]:
        return await self._compacted(self._sync._compaction(conversation_id, keep_last, model, parameters))

    async def _compacted(self, compaction: Compaction) -> list[Summary]:
        client = await self._client_here()
        while (step := await self._threads.run(compaction.next)) is not None:
            answer: object
            try:
                answer = await client.chat.completions.create(**openai_client.call_arguments(client, step.request, {}))
            except Exception as error:
                answer = error
            await asyncio.sleep(await self._threads.run(partial(compaction.take, step, answer, client)))
        return compaction.summaries

    async def _compact_if_due(self, turn: Turn) -> None:
        due = compaction_due(turn)
        if due is None:
            return
        from convstore.turns import compaction_plan

        where = self._owner, turn.conversation_id
        with suppress(ConvstoreError):
            if not await self._threads.run(partial(self._runtime.write_repeatable, compaction_plan.claim, *where)):
                return
            try:
                keep_last, threshold = due
                least = int(threshold * WORTH_A_SUMMARY)
                await self._compacted(self._sync._compaction(turn.conversation_id, keep_last, None, {}, least))
            finally:
                await self._threads.run(partial(self._runtime.write_repeatable, compaction_plan.release, *where))

    @documented_as(Store.stop)
    async def stop(self, conversation_id: str, *, wait: float = 5.0) -> bool:
        # Not the sync method in a thread: it waits for turns whose ends need the same threads.
        conversation_id, deadline = known_id(conversation_id), time.monotonic() + check_wait(wait)
        holder = await self._threads.run(partial(self._runtime.write, request_stop, self._owner, conversation_id))
        if holder is None:
            return False
        still_held = partial(self._runtime.read, still_holds, self._owner, conversation_id, holder)
        for pause in pauses(deadline):
            if not await self._threads.run(still_held):
                return True
            await asyncio.sleep(pause)
        take = partial(self._runtime.write, lease_rows.stop, self._owner, conversation_id, holder, datetime.now(UTC))
        await self._threads.run(take)
        return True

    @documented_as(Store.follow)
    async def follow(self, conversation_id: str) -> AsyncIterator[str]:
        conversation_id = known_id(conversation_id)
        at: queries.Following | None = None
        while True:
            read = partial(self._runtime.read, queries.follow, self._owner, conversation_id, at, process_locks.is_alive)
            at, text = await self._threads.run(read)
            if text:
                yield text
            if at is None or at.over:
                return
            await asyncio.sleep(FOLLOW_SECONDS)

    @property
    def _sync(self) -> Store:
        """The sync store on the same runtime: for what does not call the model."""
        store = object.__new__(Store)
        store.__dict__.update(
            _owner=self._owner, _model=self._model, _runtime=self._runtime, _transactions=self._runtime
        )
        return store

    async def _run(self, method: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        return await self._threads.run(partial(method, self._sync, *args, **kwargs))

    async def _when_free(self, conversation_id: str, wait: float, attempt: Callable[[], Awaitable[R]]) -> R:
        deadline = time.monotonic() + wait
        while True:
            try:
                return await attempt()
            except ConversationBusy:
                if time.monotonic() >= deadline:
                    raise
            for pause in pauses(deadline):
                await asyncio.sleep(pause)
                if not await self._threads.run(partial(self._runtime.is_held, self._owner, conversation_id)):
                    break

    async def _client_here(self) -> AsyncOpenAI:
        """Return the client for this event loop: connections that were opened in another one are of no use in it."""
        client: AsyncOpenAI = await self._threads.run(partial(self._runtime.client, asyncio.get_running_loop()))
        return client

    async def _begin(self, conversation_id: str, question: Question, wait: float) -> Live | Turn:
        begin = partial(self._runtime.begin, self._owner, conversation_id, question)

        async def attempt() -> Live | Turn:
            return await self._threads.run(begin, undo=self._give_up)

        return await self._when_free(conversation_id, wait, attempt)

    def _give_up(self, begun: Live | Turn) -> None:
        """End a turn whose task was cancelled while it began."""
        if isinstance(begun, Live):
            self._runtime.end(begun, begun.answer.stopped())

    async def _end(self, live: Live, ending: Ending) -> tuple[Turn, bool]:
        return await self._threads.run(partial(self._runtime.end, live, ending))

    def _reply(self, conversation_id: str, question: Question, wait: float) -> AsyncReplyStream:
        steps = Steps(self._client_here, self._begin, self._end, self._compact_if_due)
        return AsyncReplyStream(steps, self._runtime, self._owner, conversation_id, question, wait)

    async def _answered(self, conversation_id: str, question: Question, wait: float) -> Turn:
        conversation_id = known_id(conversation_id)
        client = await self._client_here()
        live = await self._begin(conversation_id, question, wait)
        if isinstance(live, Turn):
            return live
        try:
            ending = live.answer.whole(read_completion(await acall(client, live, self._runtime.retries)))
        except Exception as error:
            return settle(*await self._end(live, live.answer.failed(openai_client.describe(error, client))))
        except BaseException:
            await self._end(live, live.answer.stopped())
            raise
        turn = settle(*await self._end(live, ending))
        await self._compact_if_due(turn)
        return turn
