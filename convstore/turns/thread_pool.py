"""Runs blocking work in threads for asyncio; work that has begun is finished, even if the task is cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

R = TypeVar("R")

_MAX_THREADS = 16  # each holds a connection while it works, and SQLite writes one at a time anyway


class ThreadPool:
    """A small pool of threads for database work."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    async def run(self, work: Callable[[], R], *, undo: Callable[[R], object] | None = None) -> R:
        """Run `work` in a thread and return its result.

        If the task is cancelled meanwhile, the work is finished, then undone if it can be; only then is the task told.
        """
        if self._pool is None or self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(_MAX_THREADS, "convstore"), os.getpid()
        loop = asyncio.get_running_loop()
        # With the context of the task: a span that begins in the thread belongs to the task's.
        future = loop.run_in_executor(self._pool, contextvars.copy_context().run, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if future.cancelled():
                raise
            await _wait_until_done(future)
            if undo is not None and future.exception() is None:
                await _wait_until_done(loop.run_in_executor(self._pool, undo, future.result()))
            raise

    def close(self) -> None:
        """Wait until all work is finished, and end the threads; the next `run` starts them again."""
        if self._pool is not None and self._process == os.getpid():
            self._pool.shutdown(wait=True)
        self._pool = None


async def _wait_until_done(future: asyncio.Future[Any]) -> None:
    """Wait for a thread's work, however often the task is cancelled."""
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()  # retrieved: the caller is told of the cancellation
