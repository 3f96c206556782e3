"""Keeps the leases of running turns alive: one daemon thread a store, and none for calls that end soon."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import timedelta

from convstore.errors import DatabaseError
from convstore.ledger.turns import RunningTurn


class Heartbeat:
    """Calls `renew` for each running turn at a third of the lease's span, until the turn is over."""

    def __init__(self, span: timedelta, renew: Callable[[RunningTurn], bool]) -> None:
        self._tick = span.total_seconds() / 3
        self._renew = renew
        self._changed = threading.Condition()
        self._running: dict[str, RunningTurn] = {}
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def watch(self, turn: RunningTurn) -> None:
        """Renew the turn's lease from now on."""
        with self._changed:
            if self._pid != os.getpid():  # a forked child has its parent's turns, and not its threads
                self._running, self._thread, self._pid = {}, None, os.getpid()
            self._running[turn.token] = turn
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="convstore-heartbeat", daemon=True)
                self._thread.start()

    def forget(self, turn: RunningTurn) -> None:
        """The turn is over."""
        with self._changed:
            self._running.pop(turn.token, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Forget every turn and wait for the thread's end."""
        with self._changed:
            self._running.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and self._pid == os.getpid():
            thread.join()

    def _beat(self) -> None:
        while True:
            with self._changed:
                # Stays for one idle tick: a busy store should not start a thread for every turn.
                self._changed.wait_for(lambda: self._thread is not threading.current_thread(), timeout=self._tick)
                if self._thread is not threading.current_thread():
                    return
                if not self._running:
                    self._thread = None
                    return
                turns = list(self._running.values())
            for turn in turns:
                try:
                    held = self._renew(turn)
                except DatabaseError:
                    continue  # the next tick tries again; the lease outlives two that fail
                if not held:
                    self.forget(turn)
