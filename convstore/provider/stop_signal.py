"""A request to stop a model call, given by one thread and noticed by the thread or the task that makes the call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager


class StopSignal:
    """Given at most once, from any thread."""

    __slots__ = ("_lock", "_wake", "before_wait", "given", "has_waited")

    def __init__(self) -> None:
        self.given: Future[None] = Future()
        """Done when the signal was given."""
        self.before_wait: Callable[[], object] | None = None
        """Called each time before the call waits for more of its server's answer; it must not raise an exception."""
        self.has_waited = False
        """Whether the call has waited so; a client of the caller's own does not tell."""
        self._lock = threading.Lock()
        self._wake: Callable[[], object] | None = None

    def set(self) -> None:
        """Give the signal."""
        with self._lock:
            if self.given.done():
                return
            self.given.set_result(None)
            wake = self._wake
        if wake is not None:
            wake()

    def is_set(self) -> bool:
        """Return True if the signal was given."""
        return self.given.done()

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call `wake` when the signal is given during the block, or was given before it."""
        with self._lock:
            self._wake, is_given = wake, self.given.done()
        try:
            if is_given:
                wake()
            yield
        finally:
            with self._lock:
                self._wake = None
