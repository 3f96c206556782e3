"""Stop a model call that waits for its server, by closing its connection.

A thread that waits for a socket cannot be woken by another one. So the connections of a client that convstore makes
wait in short steps, and look between two steps whether the call was stopped. A task is cancelled.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from convstore.provider.stop_signal import StopSignal

R = TypeVar("R")

_STEP_SECONDS = 0.25
MAX_SILENT_SECONDS = 600.0
"""How long a call waits for data: openai's own default for one read."""

_waiting = threading.local()


class CallStopped(Exception):
    """The call was stopped while it waited for its server."""


class SilentServer(Exception):
    """The server did not begin to answer, or brought nothing but comments, for too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the server brought no data for {seconds:.0f} seconds")


def find_patience(client: Any, arguments: dict[str, Any]) -> float:
    """Return how many seconds a call waits for the beginning of an answer.

    It is twice the timeout for one read: to connect may take as long. Without a timeout, it has no end.
    """
    timeout = arguments.get("timeout", getattr(client, "timeout", MAX_SILENT_SECONDS))
    seconds = getattr(timeout, "read", timeout)
    if seconds is None:
        return math.inf
    return 2 * (float(seconds) if isinstance(seconds, (int, float)) else MAX_SILENT_SECONDS)


@contextmanager
def stoppable(stop: StopSignal | None, patience: float = math.inf) -> Iterator[None]:
    """Let a signal stop what this thread reads in the block from a client of `make_stoppable`.

    Args:
        patience: the block ends after so many seconds, even if the server sends something that is no answer
            (`100 Continue`).
    """
    _waiting.stop, _waiting.give_up_at, _waiting.patience = stop, time.monotonic() + patience, patience
    try:
        yield
    finally:
        _waiting.stop = None


async def await_stoppable(awaitable: Awaitable[R], stop: StopSignal | None, patience: float = math.inf) -> R:
    """Return what an awaitable gives; a signal cancels it.

    Raises:
        CallStopped: the signal was given.
        SilentServer: it did not end within `patience` seconds.
    """
    if stop is None:
        return await awaitable
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(patience if patience < math.inf else None) as limit:

            def end() -> None:
                with suppress(RuntimeError):  # it has ended meanwhile
                    limit.reschedule(loop.time())

            def wake() -> None:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(end)

            with stop.waking(wake):
                return await awaitable
    except TimeoutError:
        if not limit.expired():
            raise
        if stop.is_set():
            raise CallStopped from None
        raise SilentServer(patience) from None


def make_stoppable(http_client: Any) -> Any:
    """Return a sync client of httpx or httpx2, with connections that wait in short steps.

    The libraries take no network backend through their clients, so it is replaced in their pools. If a pool has none, a
    later release has moved it: then a silent call cannot be stopped, and everything else works.
    """
    transports = [getattr(http_client, "_transport", None), *getattr(http_client, "_mounts", {}).values()]
    for transport in transports:
        pool: Any = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if backend is not None:
            pool._network_backend = _Backend(backend)
    return http_client


class _Backend:
    """A network backend with streams that can be stopped."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        library = sys.modules[type(backend).__module__.partition(".")[0]]
        self._timeout_error: type[Exception] = library.ReadTimeout

    def connect_tcp(self, *arguments: Any, **options: Any) -> _Stream:
        return _Stream(self._backend.connect_tcp(*arguments, **options), self._timeout_error)

    def connect_unix_socket(self, *arguments: Any, **options: Any) -> _Stream:
        return _Stream(self._backend.connect_unix_socket(*arguments, **options), self._timeout_error)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _Stream:
    """A connection that waits for data in short steps."""

    def __init__(self, stream: Any, timeout_error: type[Exception]) -> None:
        self._stream = stream
        self._timeout_error = timeout_error

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        stop: StopSignal | None = getattr(_waiting, "stop", None)
        if stop is None:
            return bytes(self._stream.read(max_bytes, timeout))
        stop.has_waited = True
        if stop.before_wait is not None:
            stop.before_wait()
        end = time.monotonic() + timeout if timeout is not None else math.inf
        while True:
            now = time.monotonic()
            if stop.is_set():
                raise CallStopped
            if now >= _waiting.give_up_at:
                raise SilentServer(_waiting.patience)
            try:
                received: bytes = self._stream.read(max_bytes, min(_STEP_SECONDS, max(0.001, end - now)))
            except self._timeout_error:
                if time.monotonic() >= end:
                    raise
            else:
                return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *arguments: Any, **options: Any) -> _Stream:
        return _Stream(self._stream.start_tls(*arguments, **options), self._timeout_error)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
