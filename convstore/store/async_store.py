"""`AsyncStore`: the same as `Store`, for asyncio.

The work on the database is the sync code, run on a small pool of threads, one hop for each transaction: a write that a
thread has begun is finished even if its task is cancelled, or the event loop shuts down. Only the model is called with
`await`.
"""

from __future__ import annotations

import asyncio
import builtins  # inside the class, `list` is a method
import os
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Engine

from convstore.conversations.append import append_when_free, make_addition
from convstore.db.callers_schema import CallersSchema
from convstore.leases.lease_watch import DEFAULT_LEASE_SECONDS
from convstore.provider.model_clients import ModelClients
from convstore.provider.openai_client import make_async_client
from convstore.provider.raw_answer import MAX_REPLY_BYTES
from convstore.provider.retry_policy import DEFAULT_RETRIES
from convstore.store.assembly import make_engine, make_services, open_given
from convstore.store.async_methods import AsyncConversationMethods
from convstore.store.async_reply_stream import AsyncReplyStream
from convstore.store.conversation_methods import ConversationMethods, to_seq
from convstore.store.docstrings import documented_as
from convstore.store.store import Store
from convstore.store.transaction_view import AsyncTransactionView
from convstore.turns import following, stopping, turn_flow
from convstore.turns.async_runner import AsyncRunner
from convstore.turns.compaction import compact, make_summary_options
from convstore.turns.thread_pool import ThreadPool
from convstore.turns.title_writing import make_title_parameters, write_title
from convstore.turns.turn_request import (
    TurnRequest,
    make_complete_request,
    make_edit_request,
    make_retry_request,
    make_say_request,
    make_terms,
)
from convstore.turns.turn_start import preview_first_turn, preview_turn
from convstore.values.identifiers import ConversationKey, Position
from convstore.values.results import Conversation, MessageRecord, Request, Summary, Turn
from convstore.values.validation import (
    OnBusy,
    check_existing_id,
    check_idempotency_key,
    check_owner,
    check_position,
    check_wait,
    get_wait_seconds,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from sqlalchemy.ext.asyncio import AsyncConnection

    from convstore.messages.token_counters import TokenCounter

P = ParamSpec("P")
R = TypeVar("R")


class AsyncStore(AsyncConversationMethods):
    """Conversations in a database, for asyncio: the same as `Store`, with `await`.

    >>> async with AsyncStore("postgresql://app@localhost/app") as store:
    ...     conversation = await store.new(model="gpt-4o-mini")
    ...     turn = await store.say(conversation.id, "Hello!")

    Cancelling a task that calls the model counts as the user's stop: a partial reply is kept, the conversation is free.

    Args:
        As `Store`; `client` is an `openai.AsyncOpenAI`. The database's driver is the same as `Store`'s.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        client: AsyncOpenAI | None = None,
        engine: Engine | None = None,
        schema: str | None = None,
        owner: str = "",
        base_url: str | None = None,
        profile: str | None = None,
        model: str | None = None,
        retries: int = DEFAULT_RETRIES,
        lease: float = DEFAULT_LEASE_SECONDS,
        count_tokens: TokenCounter | None = None,
        prices: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        super().__init__(check_owner(owner))
        clients = ModelClients(client, partial(make_async_client, base_url, profile))
        database = open_given(url, engine, schema)
        services = make_services(database, lease, count_tokens, prices)
        self._engine = make_engine(
            database,
            services,
            clients,
            retries=retries,
            model=model,
            profile=profile,
            max_reply_bytes=max_reply_bytes,
        )
        self._threads = ThreadPool()
        self._runner = AsyncRunner(clients, self._threads)

    @property
    def client(self) -> AsyncOpenAI:
        """The client that calls the model: your own, or one made from the environment when it is first needed.

        Raises:
            NotConfigured: neither a key nor a server is named.
        """
        client: AsyncOpenAI = self._engine.clients.get()
        return client

    @documented_as(Store.using)
    def using(self, connection: AsyncConnection) -> AsyncTransactionView:
        transactions = self._engine.transactions
        schema = CallersSchema(transactions.database)
        return AsyncTransactionView(connection, transactions.services, self._owner, schema)

    @documented_as(Store.close)
    async def close(self) -> None:
        client = self._engine.clients.forget(asyncio.get_running_loop())
        if client is not None:
            await client.close()
        await self._threads.run(self._engine.close)
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
        terms = make_terms(self._engine.default_model, idempotency_key=idempotency_key, expected_head=expected_head)
        request = make_say_request(message, parameters, terms, system=system, name=name, history=history)
        return await self._ask(conversation_id, request, get_wait_seconds(on_busy, wait))

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
        terms = make_terms(self._engine.default_model, idempotency_key=idempotency_key, expected_head=expected_head)
        return await self._ask(
            conversation_id, make_complete_request(parameters, terms), get_wait_seconds(on_busy, wait)
        )

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
        terms = make_terms(self._engine.default_model, expected_head=expected_head)
        request = make_edit_request(Position(check_position(position)), message, parameters, terms)
        return await self._ask(conversation_id, request, get_wait_seconds(on_busy, wait))

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
        terms = make_terms(self._engine.default_model, expected_head=expected_head)
        return await self._ask(conversation_id, make_retry_request(parameters, terms), get_wait_seconds(on_busy, wait))

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
        terms = make_terms(
            self._engine.default_model, idempotency_key=idempotency_key, expected_head=expected_head, stream=True
        )
        request = make_say_request(message, parameters, terms, system=system, name=name, history=history)
        return self._stream(conversation_id, request, get_wait_seconds(on_busy, wait))

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
        terms = make_terms(
            self._engine.default_model, idempotency_key=idempotency_key, expected_head=expected_head, stream=True
        )
        return self._stream(conversation_id, make_complete_request(parameters, terms), get_wait_seconds(on_busy, wait))

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
        terms = make_terms(self._engine.default_model, expected_head=expected_head, stream=True)
        request = make_edit_request(Position(check_position(position)), message, parameters, terms)
        return self._stream(conversation_id, request, get_wait_seconds(on_busy, wait))

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
        terms = make_terms(self._engine.default_model, expected_head=expected_head, stream=True)
        return self._stream(conversation_id, make_retry_request(parameters, terms), get_wait_seconds(on_busy, wait))

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
        terms = make_terms(self._engine.default_model, expected_head=expected_head, stream=stream)
        request = make_say_request(message, parameters, terms, system=system, name=name, history=history)
        if conversation_id is None:
            return preview_first_turn(request, self._engine.transactions.services.count_tokens)
        return await self._preview(conversation_id, request)

    @documented_as(Store.preview_complete)
    async def preview_complete(
        self, conversation_id: str, *, expected_head: int | None = None, stream: bool = False, **parameters: Any
    ) -> Request:
        terms = make_terms(self._engine.default_model, expected_head=expected_head, stream=stream)
        return await self._preview(conversation_id, make_complete_request(parameters, terms))

    @documented_as(Store.compact)
    async def compact(
        self, conversation_id: str, *, keep_last: int | None = None, model: str | None = None, **parameters: Any
    ) -> list[Summary]:
        key, default_model = self._key(conversation_id), self._engine.default_model
        options = make_summary_options(parameters, keep_last=keep_last, model=model, default_model=default_model)
        return await self._runner.run(compact(self._engine, key, options))

    @documented_as(Store.write_title)
    async def write_title(self, conversation_id: str, *, model: str | None = None, **parameters: Any) -> Conversation:
        key = self._key(conversation_id)
        return await self._runner.run(write_title(self._engine, key, make_title_parameters(parameters, model)))

    @documented_as(Store.append)
    async def append(
        self,
        conversation_id: str,
        message: object,
        *more: object,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
    ) -> builtins.list[MessageRecord]:
        # Not the sync method in a thread: it would hold the thread while it waits for turns that need threads to end.
        key, seconds = self._key(conversation_id), get_wait_seconds(on_busy, wait)
        addition = make_addition((message, *more), check_idempotency_key(idempotency_key), to_seq(expected_head))
        return await self._runner.run(append_when_free(self._engine.transactions, key, addition, seconds))

    @documented_as(Store.stop)
    async def stop(self, conversation_id: str, *, wait: float = 5.0) -> bool:
        key, seconds = self._key(conversation_id), check_wait(wait)
        return await self._runner.run(stopping.stop(self._engine.transactions, key, seconds))

    @documented_as(Store.follow)
    async def follow(self, conversation_id: str) -> AsyncIterator[str]:
        flow = following.follow(self._engine.transactions, self._key(conversation_id))
        async for piece in self._runner.iterate(flow):
            yield piece

    def _key(self, conversation_id: str) -> ConversationKey:
        return ConversationKey(self._owner, check_existing_id(conversation_id))

    async def _run(
        self, method: Callable[Concatenate[ConversationMethods, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        methods = ConversationMethods(self._engine.transactions, self._owner)
        return await self._threads.run(partial(method, methods, *args, **kwargs))

    async def _preview(self, conversation_id: str, request: TurnRequest) -> Request:
        read = partial(self._engine.transactions.read, preview_turn, self._key(conversation_id), request)
        return await self._threads.run(read)

    async def _ask(self, conversation_id: str, request: TurnRequest, seconds: float) -> Turn:
        return await self._runner.run(turn_flow.ask(self._engine, self._key(conversation_id), request, seconds))

    def _stream(self, conversation_id: str, request: TurnRequest, seconds: float) -> AsyncReplyStream:
        key = self._key(conversation_id)
        make_flow = partial(turn_flow.stream, self._engine, key, request, seconds)
        return AsyncReplyStream(self._engine, make_flow, self._runner)
