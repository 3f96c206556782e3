"""Replies as they come, for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from convstore.db.turn_writes import Ending
from convstore.provider import openai_client
from convstore.store.async_methods import documented_as
from convstore.store.reply_stream import Reply, ReplyStream
from convstore.turns.model_call import acall
from convstore.turns.runtime import Live, Runtime
from convstore.turns.turn_outcome import settle
from convstore.turns.turn_request import Question
from convstore.values.results import Turn


@dataclass(frozen=True, slots=True)
class Steps:
    """What a reply needs of the store that it belongs to: each runs in that store's threads, or on its loop."""

    client: Callable[[], Awaitable[Any]]
    begin: Callable[[str, Question, float], Awaitable[Live | Turn]]
    end: Callable[[Live, Ending], Awaitable[tuple[Turn, bool]]]
    afterwards: Callable[[Turn], Awaitable[None]]


class AsyncReplyStream(Reply):
    """The pieces of a reply's text, as they come: `ReplyStream` for asyncio.

    >>> async with store.stream(conversation.id, "Tell me a joke") as reply:
    ...     async for piece in reply:
    ...         print(piece, end="")
    """

    def __init__(
        self, steps: Steps, runtime: Runtime, owner: str, conversation_id: str, question: Question, wait: float
    ) -> None:
        super().__init__(runtime, owner, conversation_id, question, wait)
        self._steps = steps
        self._arriving: Any = None

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    @documented_as(ReplyStream.__next__)
    async def __anext__(self) -> str:
        await self._start()
        if self._pending:
            return self._take_pending()
        if self._over:
            raise StopAsyncIteration
        try:
            if not self._is_stopped:
                async for chunk in self._arriving:
                    if piece := self._take(chunk):
                        return piece
                    if self._is_stopped:
                        break
        except Exception as error:
            await self._finish(self._failure(error))
            raise StopAsyncIteration from None
        except BaseException:
            await self.close()
            raise
        if self._is_stopped:
            await self.close()
        else:
            assert self._live is not None  # noqa: S101
            await self._finish(self._live.answer.exhausted())
        raise StopAsyncIteration

    @documented_as(ReplyStream.close)
    async def close(self) -> None:
        if self._live is not None and not self._over and self._live.is_ours:
            await self._finish(self._live.answer.stopped(), stopped=True)
        self._over = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _start(self) -> None:
        if self._live is not None or self._over:
            return
        client = await self._steps.client()
        self._begun(await self._steps.begin(self._conversation_id, self._question, self._wait))
        if self._live is None:
            return
        try:
            self._chunks = await acall(client, self._live, self._runtime.retries)
            openai_client.check_stream(self._chunks)
            self._arriving = _Once(self._chunks)
            whole = openai_client.is_whole(self._chunks)
            ending = self._whole(await self._chunks.response.aread()) if whole else None
        except Exception as error:
            await self._finish(self._failure(error))
        except BaseException:
            await self.close()
            raise
        else:
            if ending is not None:
                await self._finish(ending)

    async def _finish(self, ending: Ending, *, stopped: bool = False) -> None:
        assert self._live is not None  # noqa: S101
        self._over = True
        try:
            self._turn, held = await self._steps.end(self._live, ending)
        finally:
            await _hang_up(self._chunks)
        settle(self._turn, held, stopped=stopped)
        if not stopped:
            await self._steps.afterwards(self._turn)


async def _hang_up(chunks: Any) -> None:
    """Close the connection of a stream; and the generator that read it, which else is left to the garbage collector."""
    close = getattr(chunks, "close", None)
    if close is not None:
        await close()
    finish = getattr(getattr(chunks, "_iterator", None), "aclose", None)
    if finish is not None:
        with suppress(Exception):  # it has nothing more to say: the turn is over
            await finish()


class _Once:
    """One iterator over a stream: openai's makes another generator for every loop, and each is closed by a new task."""

    def __init__(self, chunks: Any) -> None:
        self._iterator = chunks if hasattr(chunks, "__anext__") else aiter(chunks)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._iterator)
