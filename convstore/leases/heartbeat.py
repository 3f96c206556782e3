"""Keeps running turns alive: renews their leases, stores what streams received, notices requests to stop.

One daemon thread for each store; it ends after no turn has run for a while.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from convstore.errors import ConvstoreError
from convstore.provider.stop_signal import StopSignal
from convstore.values.turn_outcome import RunningTurn

_logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
"""The time between two writes of a stream's new text. If the process is killed, at most this much of it is lost."""
LOOK_SECONDS = 1.0
"""The time between two looks whether somebody asked to stop a call without a stream."""


@dataclass(slots=True, eq=False)
class Watched:
    """A turn that runs in this process."""

    turn: RunningTurn
    take_received: Callable[[], dict[str, Any] | None] | None
    """Returns what the stream received since the last call; None: the turn does not stream."""
    beat_at: float
    """The time of the next beat, by `time.monotonic()`."""
    renew_at: float
    """The time of the next renewal of the lease, by `time.monotonic()`."""
    written: int = 0
    """Number of stored deltas."""
    unwritten: dict[str, Any] | None = None
    """A delta that the last beat could not store."""
    stop_requested: StopSignal = field(default_factory=StopSignal)
    """Set when somebody asked for the turn to end, or it lost its conversation."""
    end_abandoned: Callable[[], object] | None = None
    """Ends the turn; set when nobody reads its reply any more, so that nobody else will end it."""
    busy: threading.Lock = field(default_factory=threading.Lock)
    """Held during a beat, so that the turn does not end in the middle of it."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What one beat stores for a turn."""

    turn: RunningTurn
    number: int
    """Number of the delta."""
    delta: dict[str, Any] | None
    """None: the stream received nothing."""
    renews_lease: bool


class Heartbeat:
    """Beats for every watched turn until it is over.

    Args:
        span: how long a lease lasts.
        beat: stores a beat in one transaction. Returns whether the turn still holds its conversation, and whether
            somebody asked for its end.
        on_idle: called when no turn has run for a while, before the thread ends.
    """

    def __init__(
        self, span: timedelta, beat: Callable[[Beat], tuple[bool, bool]], on_idle: Callable[[], object]
    ) -> None:
        self._renew_seconds = span.total_seconds() / 3
        self._beat = beat
        self._on_idle = on_idle
        self._start()

    def _start(self) -> None:
        self._changed = threading.Condition()
        self._watched: list[Watched] = []
        self._thread: threading.Thread | None = None
        self._waits_until = 0.0

    def start_anew_after_fork(self) -> None:
        """Watch nothing: a forked child has its parent's locks, and not its threads."""
        self._start()

    def watch(self, turn: RunningTurn, take_received: Callable[[], dict[str, Any] | None] | None = None) -> Watched:
        """Beat for a turn from now on.

        Args:
            take_received: returns what the turn's stream received since the last call; None: it does not stream.
        """
        now = time.monotonic()
        renew_at = now + self._renew_seconds
        beat_at = min(renew_at, now + (LOOK_SECONDS if take_received is None else FLUSH_SECONDS))
        watched = Watched(turn, take_received, beat_at, renew_at)
        with self._changed:
            self._watched.append(watched)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="convstore-heartbeat", daemon=True)
                self._thread.start()
            elif beat_at < self._waits_until:
                self._changed.notify_all()
        return watched

    def forget(self, watched: Watched) -> None:
        """Stop beating for a turn that is over; wait for a beat in progress."""
        with self._changed:
            if watched in self._watched:
                self._watched.remove(watched)
        with watched.busy:
            pass

    def close(self) -> None:
        """End abandoned turns, forget all others, and wait until the thread has ended."""
        with self._changed:
            abandoned = [watched for watched in self._watched if watched.end_abandoned is not None]
            self._watched.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for watched in abandoned:
            _end(watched)

    def _run(self) -> None:
        # A signal that this thread takes does not wake the main thread, which may be waiting for the network.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        this = threading.current_thread()
        idle_since = time.monotonic()
        has_tidied = False
        while True:
            with self._changed:
                now = time.monotonic()
                if self._watched:
                    idle_since = now
                next_at = min((watched.beat_at for watched in self._watched), default=idle_since + self._renew_seconds)
                if next_at > now and self._thread is this:  # after a close, nothing would end it
                    self._waits_until = next_at
                    self._changed.wait(next_at - now)
                if self._thread is not this:
                    return
                now = time.monotonic()
                is_idle = not self._watched and now >= idle_since + self._renew_seconds
                if is_idle and has_tidied:
                    self._thread = None  # a busy store should not start a thread for every turn; an idle one has none
                    return
                has_tidied = is_idle
                due = [watched for watched in self._watched if watched.beat_at <= now]
            for watched in due:
                if watched.end_abandoned is not None:
                    _end(watched)
                    continue
                with watched.busy:
                    self._beat_once(watched)
            if is_idle:  # without the lock, and before the thread ends, so that `close` waits for it
                self._tidy()

    def _tidy(self) -> None:
        try:
            self._on_idle()
        except Exception as error:  # the thread must go on: running turns need it
            _logger.info("the work of an idle store failed (%s)", type(error).__name__)

    def _beat_once(self, watched: Watched) -> None:
        with self._changed:
            if watched not in self._watched:
                return  # this turn ended while the beat of another one was stored
        now = time.monotonic()
        renew = now >= watched.renew_at
        watched.beat_at = now + min(
            self._renew_seconds, LOOK_SECONDS if watched.take_received is None else FLUSH_SECONDS
        )
        if watched.unwritten is None and watched.take_received is not None:
            watched.unwritten = watched.take_received()
        try:
            held, stop = self._beat(Beat(watched.turn, watched.written + 1, watched.unwritten, renew))
        except (ConvstoreError, SQLAlchemyError) as error:
            # The next beat tries again; the lease outlives two beats that fail.
            _logger.warning(
                "conversation %s, turn %d: a heartbeat failed (%s)",
                watched.turn.key.id,
                watched.turn.seq,
                type(error).__name__,
            )
            return
        if watched.unwritten is not None:
            watched.unwritten = None
            watched.written += 1
        if renew:
            watched.renew_at = now + self._renew_seconds
        if stop or not held:
            watched.stop_requested.set()


def _end(watched: Watched) -> None:
    if watched.end_abandoned is None:
        return
    try:
        watched.end_abandoned()
    except (ConvstoreError, SQLAlchemyError) as error:  # the database is down: the next caller finds the turn
        _logger.warning(
            "conversation %s, turn %d: its abandoned reply could not be stored (%s)",
            watched.turn.key.id,
            watched.turn.seq,
            type(error).__name__,
        )
