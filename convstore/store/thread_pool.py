"""Sync work from asyncio: on threads, and finished once it has begun."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

R = TypeVar("R")

_THREADS = 16
"""Of database work at once: each holds a connection, and SQLite writes one at a time anyway."""


class Threads:
    """A small pool of threads for database work."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()

    async def run(self, work: Callable[[], R], *, undo: Callable[[R], object] | None = None) -> R:
        """Run `work` in a thread and return what it returns.

        If the task is cancelled meanwhile, the work is finished all the same, then undone if it can be; only then is
        the task told.
        """
        if self._pool is None or self._pid != os.getpid():
            self._pool, self._pid = ThreadPoolExecutor(_THREADS, "convstore"), os.getpid()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if future.cancelled():
                raise
            await _finished(future)
            if undo is not None and future.exception() is None:
                await _finished(loop.run_in_executor(self._pool, undo, future.result()))
            raise

    def close(self) -> None:
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown(wait=True)
        self._pool = None


async def _finished(future: asyncio.Future[Any]) -> None:
    """Wait for a thread's work, however often the task is cancelled."""
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()  # seen: the cancellation is what the caller is told
