"""Performs the steps of a flow for asyncio: the model's on the event loop, database work in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, TypeVar

from convstore.provider.model_clients import ModelClients
from convstore.provider.raw_answer import RawAnswer, call_model_async
from convstore.turns.thread_pool import ThreadPool
from convstore.values.steps import (
    END_OF_STREAM,
    CallModel,
    DatabaseWork,
    GetClient,
    HangUp,
    NextChunk,
    Pause,
    Piece,
    ReadBody,
    Step,
    Steps,
    WaitForSignal,
)

R = TypeVar("R")


class FlowEnded(Exception):
    """Says that a flow has ended: `StopIteration` cannot leave a coroutine."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


class AsyncRunner:
    """Runs flows, as `SyncRunner` does.

    Args:
        clients: gives the client.
        threads: run the database work.
    """

    def __init__(self, clients: ModelClients, threads: ThreadPool) -> None:
        self._clients = clients
        self._threads = threads

    async def run(self, steps: Steps[R]) -> R:
        """Perform all steps, and return the result of the flow."""
        try:
            while True:
                await self.advance(steps)
        except FlowEnded as end:
            result: R = end.result
            return result

    async def iterate(self, steps: Steps[None]) -> AsyncIterator[str]:
        """Yield the pieces of text of a flow."""
        try:
            while True:
                yield await self.advance(steps)
        except FlowEnded:
            return

    async def advance(self, steps: Steps[Any], failure: BaseException | None = None) -> str:
        """Perform steps up to the next piece of text, and return it.

        Args:
            failure: thrown into the flow at the step where it stands.

        Raises:
            FlowEnded: the flow has ended; it carries the result.
        """
        result: Any = None
        while True:
            try:
                step = steps.send(result) if failure is None else steps.throw(failure)
                failure = None
                if isinstance(step, Piece):
                    return step.text
                result = await self._perform(step)
            except BaseException as error:
                if getgeneratorstate(steps) == GEN_CLOSED:  # the flow has ended: this is its own result or error
                    if isinstance(error, StopIteration):
                        raise FlowEnded(error.value) from None
                    raise
                result, failure = None, error

    async def _perform(self, step: Step) -> Any:
        match step:
            case NextChunk():
                return await anext(step.chunks, END_OF_STREAM)
            case DatabaseWork():
                return await self._threads.run(step.work, undo=step.undo)
            case CallModel():
                return await call_model_async(step.client, step.arguments, step.stop)
            case Pause():
                await asyncio.sleep(step.seconds)
            case WaitForSignal():
                await _wait_for_signal(step.signal, step.seconds)
            case GetClient():
                return await self._threads.run(partial(self._clients.get, asyncio.get_running_loop()))
            case ReadBody():
                if isinstance(step.answer, RawAnswer):
                    return await step.answer.read_body_async()
                return await step.answer.response.aread()
            case HangUp():
                await _hang_up(step.stream)
        return None


async def _wait_for_signal(signal: Future[None], seconds: float) -> None:
    """Wait until a thread has given a signal; `asyncio.wrap_future` would cancel it with the task."""
    loop = asyncio.get_running_loop()
    given = asyncio.Event()

    def notice(_: Future[None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: its task no longer waits
            loop.call_soon_threadsafe(given.set)

    signal.add_done_callback(notice)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await given.wait()


async def _hang_up(stream: Any) -> None:
    """Close the connection of a stream, and the generator that reads it."""
    if isinstance(stream, RawAnswer):
        await stream.close_async()
        return
    close = getattr(stream, "close", None)
    if close is not None:
        await close()
    finish = getattr(getattr(stream, "_iterator", None), "aclose", None)
    if finish is not None:
        with suppress(Exception):  # the turn is over: an error here does not matter
            await finish()
