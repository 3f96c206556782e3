"""`AsyncStore` in `Store`'s clothes, so that what is asked of the one is asked of the other, word for word."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from convstore import AsyncReplyStream, AsyncStore

R = TypeVar("R")


class Loop:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event-loop")
        self._thread.start()

    def run(self, awaitable: Awaitable[R]) -> R:
        """Await it there, and return what it returns."""

        async def awaited() -> R:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result()

    def close(self) -> None:
        """Stop; whatever a test has left running on it is a fault."""
        left = self.run(_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert not left, left


async def _others() -> list[str]:
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


class Facade:
    """A store whose every coroutine is awaited before it returns."""

    def __init__(self, store: AsyncStore, loop: Loop) -> None:
        self._store = store
        self._on = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **kwargs: self._on.run(found(*args, **kwargs))

    def for_owner(self, owner: str) -> Facade:
        return Facade(self._store.for_owner(owner), self._on)

    def stream(self, *args: Any, **kwargs: Any) -> Stream:
        return Stream(self._store.stream(*args, **kwargs), self._on)

    def retry_stream(self, *args: Any, **kwargs: Any) -> Stream:
        return Stream(self._store.retry_stream(*args, **kwargs), self._on)

    def complete_stream(self, *args: Any, **kwargs: Any) -> Stream:
        return Stream(self._store.complete_stream(*args, **kwargs), self._on)

    def edit_stream(self, *args: Any, **kwargs: Any) -> Stream:
        return Stream(self._store.edit_stream(*args, **kwargs), self._on)

    def follow(self, conversation_id: str) -> Iterator[str]:
        pieces = self._store.follow(conversation_id)
        while (piece := self._on.run(anext(pieces, None))) is not None:
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._on.run(self._store.close())


class Stream:
    """A reply whose every piece is awaited before it returns."""

    def __init__(self, reply: AsyncReplyStream, loop: Loop) -> None:
        self._reply = reply
        self._on = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reply, name)

    def __enter__(self) -> Self:
        self._on.run(self._reply.__aenter__())
        return self

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self._on.run(_next(self._reply))
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        self._on.run(self._reply.close())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._on.run(self._reply.__aexit__(kind, error, traceback))


async def _next(reply: AsyncReplyStream) -> str | None:
    async for piece in reply:
        return piece
    return None
