"""Keeps running turns alive: renews their leases, puts on record what streams received, hears the wish to stop.

One daemon thread a store, which ends when nothing has run for a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from convstore.db.turn_writes import RunningTurn
from convstore.errors import ConvstoreError

FLUSH_SECONDS = 0.5
"""How often a stream's new text is put on record: so much of it can be lost with the process."""


@dataclass(slots=True, eq=False)
class Watched:
    """A turn that runs in this process."""

    turn: RunningTurn
    take: Callable[[], dict[str, Any] | None] | None
    """Returns what a stream received since it was last asked; None for a turn that does not stream."""
    beat_at: float
    """When its next beat is due (of `time.monotonic`), and when the lease is to be renewed with it."""
    renew_at: float
    written: int = 0
    """How many deltas are on record."""
    unwritten: dict[str, Any] | None = None
    """The delta that the last beat could not write."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when somebody asked for the turn to end."""
    abandoned: Callable[[], object] | None = None
    """Ends the turn: set when the reader of its reply is gone, and will never end it."""
    busy: threading.Lock = field(default_factory=threading.Lock)
    """Held while a beat is being written, so that the turn cannot end in between."""


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
        now = time.monotonic()
        renew_at = now + self._renew_every
        watched = Watched(turn, take, renew_at if take is None else min(renew_at, now + FLUSH_SECONDS), renew_at)
        with self._changed:
            self._watched.append(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="convstore-heartbeat", daemon=True)
                self._thread.start()
            elif take is not None:
                self._changed.notify_all()  # its first beat comes sooner than what the thread waits for
        return watched

    def forget(self, watched: Watched) -> None:
        """The turn is over. Waits for a beat that is being written."""
        with self._changed:
            if watched in self._watched:
                self._watched.remove(watched)
        with watched.busy:
            pass

    def close(self) -> None:
        """End the turns that were abandoned, forget all others, and wait for the thread's end."""
        with self._changed:
            abandoned = [watched for watched in self._watched if watched.abandoned is not None]
            self._watched.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for watched in abandoned:
            _end(watched)

    def _run(self) -> None:
        this = threading.current_thread()
        idle_since = time.monotonic()
        while True:
            with self._changed:
                now = time.monotonic()
                if self._watched:
                    idle_since = now
                next_at = min((watched.beat_at for watched in self._watched), default=idle_since + self._renew_every)
                if next_at > now and self._thread is this:  # closed before this, nobody would end the wait
                    self._changed.wait(next_at - now)
                if self._thread is not this:
                    return
                now = time.monotonic()
                if not self._watched and now >= idle_since + self._renew_every:
                    self._thread = None  # a busy store should not start a thread for every turn; an idle one has none
                    return
                due = [watched for watched in self._watched if watched.beat_at <= now]
            for watched in due:
                if watched.abandoned is not None:
                    _end(watched)
                    continue
                with watched.busy:
                    self._beat_once(watched)

    def _beat_once(self, watched: Watched) -> None:
        with self._changed:
            if watched not in self._watched:
                return  # it ended while another was being written
        now = time.monotonic()
        renew = now >= watched.renew_at
        watched.beat_at = now + (self._renew_every if watched.take is None else min(self._renew_every, FLUSH_SECONDS))
        if watched.unwritten is None and watched.take is not None:
            watched.unwritten = watched.take()
        try:
            held, stop = self._beat(watched.turn, watched.written + 1, watched.unwritten, renew)
        except (ConvstoreError, SQLAlchemyError):
            return  # the next beat tries again; the lease outlives two that fail
        if watched.unwritten is not None:
            watched.unwritten = None
            watched.written += 1
        if renew:
            watched.renew_at = now + self._renew_every
        if stop or not held:
            watched.stop.set()


def _end(watched: Watched) -> None:
    if watched.abandoned is not None:
        with suppress(ConvstoreError, SQLAlchemyError):  # the database is down: the next caller finds the turn
            watched.abandoned()
