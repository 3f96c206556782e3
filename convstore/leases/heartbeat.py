"""Keeps running turns alive: renews their leases, stores what streams received, notices requests to stop.

One daemon thread for each store; it ends after no turn has run for a while.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
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
JOIN_SECONDS = 0.1
"""A stream beats together with others if they do so after at least this time."""
_MOST_AT_ONCE = 100
"""Turns with beats in one transaction; a turn that ends waits for it."""
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
        store_beats: stores beats in one transaction. Returns of each whether the turn still holds its conversation,
            and whether somebody asked for its end.
        on_idle: called when no turn has run for a while, before the thread ends.
    """

    def __init__(
        self,
        span: timedelta,
        store_beats: Callable[[Sequence[Beat]], Sequence[tuple[bool, bool]]],
        on_idle: Callable[[], object],
    ) -> None:
        self._renew_seconds = span.total_seconds() / 3
        self._store_beats = store_beats
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
            if take_received is not None:
                watched.beat_at = self._find_common_beat(now + JOIN_SECONDS, beat_at)
                beat_at = watched.beat_at
            self._watched.append(watched)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="convstore-heartbeat", daemon=True)
                self._thread.start()
            elif beat_at < self._waits_until:
                self._changed.notify_all()
        return watched

    def _find_common_beat(self, earliest: float, latest: float) -> float:
        """Return when the next other stream beats within these times, so that one transaction serves both."""
        times = (one.beat_at for one in self._watched if one.take_received is not None)
        return min((time for time in times if earliest <= time <= latest), default=latest)

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
            # In order, because a renewal locks a conversation's row.
            living = sorted((watched for watched in due if watched.end_abandoned is None), key=_get_place)
            for some in _batch(living, _MOST_AT_ONCE):
                self._beat_for(some)
            if is_idle:  # without the lock, and before the thread ends, so that `close` waits for it
                self._tidy()

    def _tidy(self) -> None:
        try:
            self._on_idle()
        except Exception as error:  # the thread must go on: running turns need it
            _logger.info("the work of an idle store failed (%s)", type(error).__name__)

    def _beat_for(self, due: Sequence[Watched]) -> None:
        """Store the beats of some turns in one transaction; if that fails, each in its own."""
        with ExitStack() as busy:
            for watched in due:
                busy.enter_context(watched.busy)
            now = time.monotonic()
            beats = self._make_beats(due, now)
            try:
                self._note(beats, self._store_beats([beat for _, beat in beats]) if beats else [], now)
            except (ConvstoreError, SQLAlchemyError) as error:
                if len(beats) == 1:
                    # The next beat tries again; the lease outlives two beats that fail.
                    turn = beats[0][0].turn
                    _logger.warning(
                        "conversation %s, turn %d: a heartbeat failed (%s)",
                        turn.key.id,
                        turn.seq,
                        type(error).__name__,
                    )
                    return
            else:
                return
        for watched in due:
            self._beat_for([watched])

    def _make_beats(self, due: Sequence[Watched], now: float) -> list[tuple[Watched, Beat]]:
        with self._changed:
            watched_now = set(map(id, self._watched))
        beats = []
        for watched in due:
            if id(watched) not in watched_now:
                continue  # this turn ended while the beat of another one was stored
            watched.beat_at = now + min(
                self._renew_seconds, LOOK_SECONDS if watched.take_received is None else FLUSH_SECONDS
            )
            if watched.unwritten is None and watched.take_received is not None:
                watched.unwritten = watched.take_received()
            renews = now >= watched.renew_at
            beats.append((watched, Beat(watched.turn, watched.written + 1, watched.unwritten, renews)))
        return beats

    def _note(self, beats: Sequence[tuple[Watched, Beat]], results: Sequence[tuple[bool, bool]], now: float) -> None:
        for (watched, beat), (is_held, is_stopped) in zip(beats, results, strict=True):
            if watched.unwritten is not None:
                watched.unwritten = None
                watched.written += 1
            if beat.renews_lease:
                # From when the beat began, as the next beat: else that one would come just before it.
                watched.renew_at = now + self._renew_seconds
            if is_stopped or not is_held:
                watched.stop_requested.set()


def _get_place(watched: Watched) -> tuple[str, str]:
    return watched.turn.key.owner, watched.turn.key.id


def _batch(watched: Sequence[Watched], most: int) -> Iterator[Sequence[Watched]]:
    """Yield some at a time."""
    for begin in range(0, len(watched), most):
        yield watched[begin : begin + most]


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
