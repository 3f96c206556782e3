"""A reply while it streams in, for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from convstore.store.docstrings import documented_as
from convstore.store.reply_stream import ReplyStream, StreamedReply, StreamFlow
from convstore.turns.async_runner import AsyncRunner, FlowEnded
from convstore.turns.turn_engine import TurnEngine
from convstore.turns.turn_flow import ReplyClosed


class AsyncReplyStream(StreamedReply):
    """The pieces of a reply's text, as they come: `ReplyStream` for asyncio.

    >>> async with store.stream(conversation.id, "Tell me a joke") as reply:
    ...     async for piece in reply:
    ...         print(piece, end="")
    """

    def __init__(self, engine: TurnEngine, make_flow: StreamFlow, runner: AsyncRunner) -> None:
        super().__init__(engine, make_flow)
        self._runner = runner

    async def __aenter__(self) -> Self:
        if self._flow is None and not self._is_over:
            await self._advance()
        return self

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    @documented_as(ReplyStream.__next__)
    async def __anext__(self) -> str:
        while not self._is_over:
            if piece := await self._advance():
                return piece
        raise StopAsyncIteration

    @documented_as(ReplyStream.close)
    async def close(self) -> None:
        flow = self._close_and_get_flow()
        if flow is not None:
            with suppress(FlowEnded):
                await self._runner.advance(flow, ReplyClosed())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _advance(self) -> str:
        try:
            return await self._runner.advance(self._get_flow())
        except FlowEnded:
            self._note_end()
            return ""
        except BaseException:
            self._note_end()
            raise
