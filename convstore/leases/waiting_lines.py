"""The callers of this process that wait for a conversation, first come, first served.

Only the first of a line looks at the database, and not even that while a turn of this process holds the conversation:
the end of the turn wakes it. So a thousand waiters cost no more than one. Other processes are not in the line; against
them the first one waits by looking again and again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Hashable
from concurrent.futures import Future
from typing import TypeAlias

from convstore.values.identifiers import ConversationKey

LineName: TypeAlias = tuple[Hashable, ConversationKey]
"""The database and the conversation that the callers wait for."""


class Place:
    """A caller's place in a line."""

    __slots__ = ("active_at", "line", "signal")

    def __init__(self, line: LineName) -> None:
        self.line = line
        self.active_at = time.monotonic()
        """When its caller last waited, by `time.monotonic`."""
        self.signal: Future[None] = Future()
        """Done when the place has become the first, or the turn has ended; `rearm` replaces it."""

    def wake(self) -> None:
        """Wake the caller."""
        if not self.signal.done():
            self.signal.set_result(None)


class WaitingLines:
    """The lines of a process. Threads share it."""

    def __init__(self) -> None:
        self.forget_after_fork()

    def forget_after_fork(self) -> None:
        """Forget all places and turns: a forked child has none of its parent's callers."""
        # The garbage collector may close a generator, which leaves its place, in the middle of any of these methods.
        self._lock = threading.RLock()
        self._places: dict[LineName, list[Place]] = {}
        self._turns: dict[LineName, int] = {}

    def has_waiters(self, line: LineName) -> bool:
        """Return True if somebody waits in this line."""
        return line in self._places

    def enter(self, place: Place) -> None:
        """Put a place at the end of its line."""
        with self._lock:
            places = self._places.setdefault(place.line, [])
            places.append(place)
            self._places[place.line] = places  # the garbage collector may have let the last one leave meanwhile

    def leave(self, place: Place) -> None:
        """Give up a place, and wake the caller who becomes the first."""
        with self._lock:
            places = self._places.get(place.line, [])
            if place not in places:
                return
            was_first = places[0] is place
            places.remove(place)
            if not places:
                self._places.pop(place.line, None)
            elif was_first:
                places[0].active_at = time.monotonic()
                places[0].wake()

    def drop_lost(self, line: LineName, seconds: float) -> None:
        """Drop the first place of a line if its caller has not waited for some seconds.

        Its event loop may have stopped, or be blocked by the caller who asks.
        """
        with self._lock:
            for place in self._places.get(line, [])[:1]:
                if place.active_at < time.monotonic() - seconds:
                    self.leave(place)

    def is_first(self, place: Place) -> bool:
        """Return True if nobody is before this place."""
        with self._lock:
            return self._places.get(place.line, [None])[0] is place

    def rearm(self, place: Place) -> None:
        """Let the caller wait for the next signal. It must look at the conversation after this, not before."""
        with self._lock:
            if place.signal.done():
                place.signal = Future()

    def note_begin(self, line: LineName) -> None:
        """Note that a turn of this process holds the conversation."""
        with self._lock:
            self._turns[line] = self._turns.get(line, 0) + 1

    def note_end(self, line: LineName) -> None:
        """Note that a turn of this process has ended, and wake the first caller of the line."""
        with self._lock:
            left = self._turns.get(line, 0) - 1
            if left > 0:
                self._turns[line] = left
            else:
                self._turns.pop(line, None)
            for place in self._places.get(line, [])[:1]:
                place.wake()

    def count_waiters(self) -> int:
        """Return how many callers of this process wait."""
        with self._lock:
            return sum(len(places) for places in self._places.values())

    def count_turns(self) -> int:
        """Return how many turns run in this process."""
        with self._lock:
            return sum(self._turns.values())

    def is_running_here(self, line: LineName) -> bool:
        """Return True if a turn of this process holds the conversation, as far as is known."""
        return line in self._turns


LINES = WaitingLines()
"""The lines of this process."""

os.register_at_fork(after_in_child=LINES.forget_after_fork)
