"""Give `AsyncStore` the methods of `Store`, so that both run the same tests."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from convstore import AsyncReplyStream, AsyncStore

R = TypeVar("R")


class EventLoopThread:
    """An event loop that runs in its own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event-loop")
        self._thread.start()

    def run(self, awaitable: Awaitable[R]) -> R:
        """Await a coroutine in the loop, and return its result."""

        async def await_it() -> R:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(await_it(), self._loop).result()

    def close(self) -> None:
        """Stop the loop; fail if a test left a task running in it."""
        left = self.run(_list_other_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert not left, left


async def _list_other_tasks() -> list[str]:
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


class Facade:
    """An `AsyncStore` with blocking methods: each awaits its coroutine."""

    def __init__(self, store: AsyncStore, loop: EventLoopThread) -> None:
        self._store = store
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **kwargs: self._loop.run(found(*args, **kwargs))

    def for_owner(self, owner: str) -> Facade:
        return Facade(self._store.for_owner(owner), self._loop)

    def stream(self, *args: Any, **kwargs: Any) -> SyncStream:
        return SyncStream(self._store.stream(*args, **kwargs), self._loop)

    def retry_stream(self, *args: Any, **kwargs: Any) -> SyncStream:
        return SyncStream(self._store.retry_stream(*args, **kwargs), self._loop)

    def complete_stream(self, *args: Any, **kwargs: Any) -> SyncStream:
        return SyncStream(self._store.complete_stream(*args, **kwargs), self._loop)

    def edit_stream(self, *args: Any, **kwargs: Any) -> SyncStream:
        return SyncStream(self._store.edit_stream(*args, **kwargs), self._loop)

    def follow(self, conversation_id: str) -> Iterator[str]:
        pieces = self._store.follow(conversation_id)
        while (piece := self._loop.run(anext(pieces, None))) is not None:
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._store.close())


class SyncStream:
    """An `AsyncReplyStream` with blocking methods."""

    def __init__(self, reply: AsyncReplyStream, loop: EventLoopThread) -> None:
        self._reply = reply
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reply, name)

    def __enter__(self) -> Self:
        self._loop.run(self._reply.__aenter__())
        return self

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self._loop.run(_read_next_piece(self._reply))
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        self._loop.run(self._reply.close())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.run(self._reply.__aexit__(kind, error, traceback))


async def _read_next_piece(reply: AsyncReplyStream) -> str | None:
    async for piece in reply:
        return piece
    return None
