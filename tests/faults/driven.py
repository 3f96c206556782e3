"""Run one test body with `Store` and with `AsyncStore`, which runs in its own loop behind `Store`'s methods."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, cast

import openai
from sqlalchemy import Engine

from convstore import AsyncReplyStream, AsyncStore, Store, Turn
from convstore.testing import ChatServer


class _Stream:
    """An `AsyncReplyStream` that is read in the loop of its store."""

    def __init__(self, stream: AsyncReplyStream, run: Callable[[Any], Any]) -> None:
        self._stream = stream
        self._run = run

    def __enter__(self) -> Self:
        self._run(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._stream.__aexit__(kind, error, traceback))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            piece: str = self._run(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None
        return piece

    def close(self) -> None:
        self._run(self._stream.close())

    @property
    def turn(self) -> Turn:
        return self._stream.turn

    @property
    def text(self) -> str:
        return self._stream.text


class _Driven:
    def __init__(self, store: AsyncStore, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner
        self._engine = store._engine

    def _run(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self._runner.run(wait())

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            result = found(*args, **kwargs)
            if inspect.isawaitable(result):
                result = self._run(result)
            if isinstance(result, AsyncStore):
                return _Driven(result, self._runner)
            if isinstance(result, AsyncReplyStream):
                return _Stream(result, self._run)
            if isinstance(result, AsyncIterator):
                return self._each(result)
            return result

        return call

    def _each(self, items: AsyncIterator[str]) -> Iterator[str]:
        while True:
            try:
                yield self._run(anext(items))
            except StopAsyncIteration:
                return


def drive(store: AsyncStore, runner: asyncio.Runner) -> Store:
    """Return an `AsyncStore` with the methods of a `Store`; each call runs in the loop of `runner`."""
    return cast(Store, _Driven(store, runner))


def client(server: ChatServer, **options: Any) -> openai.OpenAI:
    """Return a client of the scripted server that reads no certificates, which would take long."""
    http = openai.DefaultHttpxClient(trust_env=False, verify=False)
    return openai.OpenAI(base_url=server.url, api_key="secret-key", http_client=http, **options)


def async_client(server: ChatServer, **options: Any) -> openai.AsyncOpenAI:
    """Return the same client for asyncio."""
    http = openai.DefaultAsyncHttpxClient(trust_env=False, verify=False)
    return openai.AsyncOpenAI(base_url=server.url, api_key="secret-key", http_client=http, **options)


@contextmanager
def opened(kind: str, url: str, server: ChatServer, *, made: bool = False, **options: Any) -> Iterator[Store]:
    """Yield a store of the `kind` "sync" or "async" that calls the scripted server.

    Args:
        made: whether convstore makes the client.
    """
    options = {"model": "test-model", **options}
    if made:
        options["base_url"] = server.url
    if kind == "sync":
        with client(server) as caller, Store(url, client=None if made else caller, **options) as store:
            yield store
        return
    with asyncio.Runner() as runner:
        caller_async = async_client(server)
        store_async = AsyncStore(url, client=None if made else caller_async, **options)
        try:
            yield drive(store_async, runner)
        finally:
            runner.run(store_async.close())
            runner.run(caller_async.close())


def engine_of(store: Store) -> Engine:
    """Return the engine of a store, to watch its statements."""
    return store._engine.transactions.database.engine
