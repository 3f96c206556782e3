"""Keeps running turns alive: renews their leases, puts on record what streams received, hears the wish to stop.

One daemon thread a store, which ends when nothing has run for a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from convstore.errors import ConvstoreError
from convstore.ledger.turns import RunningTurn

FLUSH_SECONDS = 0.5
"""How often a stream's new text is put on record: so much of it can be lost with the process."""


@dataclass(slots=True, eq=False)
class Watched:
    """A turn that runs in this process."""

    turn: RunningTurn
    take: Callable[[], dict[str, Any] | None] | None
    """Returns what a stream received since it was last asked; None for a turn that does not stream."""
    renew_at: float
    written: int = 0
    """How many deltas are on record."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when somebody asked for the turn to end."""
    busy: threading.Lock = field(default_factory=threading.Lock)
    """Held while the turn's deltas are being written, so that it cannot end in between."""


class Heartbeat:
    """Beats for every watched turn, until it is over.

    Args:
        span: how long a lease lasts.
        beat: writes what a beat has to write, in one transaction: the next delta (or None), and, if asked, the renewed
            lease. Returns whether the turn still holds its conversation, and whether it was asked to stop.
    """

    def __init__(
        self,
        span: timedelta,
        beat: Callable[[RunningTurn, int, dict[str, Any] | None, bool], tuple[bool, bool]],
    ) -> None:
        self._renew_every = span.total_seconds() / 3
        self._beat = beat
        self._changed = threading.Condition()
        self._watched: list[Watched] = []
        self._thread: threading.Thread | None = None

    def watch(self, turn: RunningTurn, take: Callable[[], dict[str, Any] | None] | None = None) -> Watched:
        """Beat for a turn from now on."""
        watched = Watched(turn, take, time.monotonic() + self._renew_every)
        with self._changed:
            self._watched.append(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="convstore-heartbeat", daemon=True)
                self._thread.start()
            elif take is not None:
                self._changed.notify_all()  # streams are looked after more often
        return watched

    def forget(self, watched: Watched) -> None:
        """The turn is over. Waits for a beat that is being written."""
        with self._changed:
            if watched in self._watched:
                self._watched.remove(watched)
        with watched.busy:
            pass

    def close(self) -> None:
        """Forget every turn and wait for the thread's end."""
        with self._changed:
            self._watched.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        this = threading.current_thread()
        idle_since = time.monotonic()
        while True:
            with self._changed:
                streams = any(watched.take is not None for watched in self._watched)
                self._changed.wait(FLUSH_SECONDS if streams else min(self._renew_every, 5.0))
                if self._thread is not this:
                    return
                if self._watched:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > self._renew_every:
                    self._thread = None
                    return
                watched_now = list(self._watched)
            for watched in watched_now:
                with watched.busy:
                    self._beat_once(watched)

    def _beat_once(self, watched: Watched) -> None:
        with self._changed:
            if watched not in self._watched:
                return  # it ended while another was being written
        delta = watched.take() if watched.take is not None else None
        renew = time.monotonic() >= watched.renew_at
        if delta is None and not renew and watched.take is None:
            return
        try:
            held, stop = self._beat(watched.turn, watched.written + 1, delta, renew)
        except ConvstoreError:
            return  # the next beat tries again, the lease outlives two that fail; the turn's end has the whole reply
        if delta is not None:
            watched.written += 1
        if renew:
            watched.renew_at = time.monotonic() + self._renew_every
        if stop or not held:
            watched.stop.set()
