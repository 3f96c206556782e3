"""Waiting for a conversation that a turn holds, without a transaction."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from convstore.errors import ConversationBusy
from convstore.leases.waiting_lines import LINES, LineName, Place
from convstore.values.steps import DatabaseWork, Pause, Steps, WaitForSignal

_logger = logging.getLogger(__name__)

LOCK_WAIT_SECONDS = 30.0
"""How long a call waits that may run beside a turn, while another transaction holds the conversation's row."""

_SILENT_SECONDS = 1.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.4
_OWN_TURN_PAUSE_SECONDS = 5.0
"""The time between two looks while a turn of this process runs: another process may have taken its conversation."""
_LOST_SECONDS = 5.0
"""The first caller of a line is dropped from it if it shows no sign of life for so long."""


def repeat_while_busy(attempt: DatabaseWork, is_held: DatabaseWork, seconds: float, line: LineName) -> Steps[Any]:
    """Return the result of `attempt`; while a turn holds the conversation, wait and repeat it.

    Args:
        is_held: only reads; returns True if a turn holds the conversation.
        seconds: how long to wait at most.
        line: where callers of this process wait for the conversation, one after another.

    Raises:
        ConversationBusy: a turn still held the conversation after that time.
    """
    if seconds <= 0:
        return (yield attempt)
    began = time.monotonic()
    if not LINES.has_waiters(line):
        try:
            return (yield attempt)
        except ConversationBusy:
            pass
    wait = _Wait(Place(line), began, began + seconds)
    try:
        LINES.enter(wait.place)
        was_second = yield from _wait_until_first(wait)
        if not was_second or LINES.is_running_here(line):
            yield from _wait_until_free(wait, is_held)
        while True:
            try:
                return (yield attempt)
            except ConversationBusy:
                if time.monotonic() >= wait.deadline:
                    raise
            yield from _wait_until_free(wait, is_held)
    finally:
        LINES.leave(wait.place)


@dataclass(slots=True)
class _Wait:
    """A caller that waits. Times are of `time.monotonic`."""

    place: Place
    began: float
    deadline: float
    has_told: bool = False


def _wait_until_first(wait: _Wait) -> Steps[bool]:
    """Wait until nobody is before this caller, or the deadline; return True if somebody was."""
    was_second = False
    while not LINES.is_first(wait.place) and (left := wait.deadline - time.monotonic()) > 0:
        was_second = True
        signal = wait.place.signal
        yield WaitForSignal(signal, min(left, _LOST_SECONDS))
        LINES.rearm(wait.place)
        if not signal.done():
            LINES.drop_lost(wait.place.line, _LOST_SECONDS)
    return was_second


def _wait_until_free(wait: _Wait, is_held: DatabaseWork) -> Steps[None]:
    """Wait until the conversation seems to be free, or the deadline."""
    look_at = time.monotonic() + _OWN_TURN_PAUSE_SECONDS
    for pause in yield_pauses(wait.deadline):
        signal = wait.place.signal
        wait.place.active_at = time.monotonic()
        yield WaitForSignal(signal, pause)
        if signal.done():
            LINES.rearm(wait.place)
            return
        now = time.monotonic()
        # A turn of this process gives a signal when it ends. A look is needed if another turn took its conversation.
        if not LINES.is_running_here(wait.place.line) or now >= look_at:
            look_at = now + _OWN_TURN_PAUSE_SECONDS
            if not (yield is_held):
                return
        seconds = now - wait.began
        if not wait.has_told and seconds >= _SILENT_SECONDS:
            wait.has_told = True
            _logger.info("waiting for a running turn, %.0f s so far", seconds)


def repeat_while_locked(attempt: DatabaseWork) -> Steps[Any]:
    """Return the result of `attempt`; while another transaction holds the conversation's row, wait and repeat it.

    Raises:
        ConversationBusy: the row was still held after `LOCK_WAIT_SECONDS`.
    """
    pauses = yield_pauses(time.monotonic() + LOCK_WAIT_SECONDS)
    while True:
        try:
            return (yield attempt)
        except ConversationBusy:
            pause = next(pauses, None)
            if pause is None:
                raise
        yield Pause(pause)


def yield_pauses(deadline: float) -> Iterator[float]:
    """Yield how many seconds to wait before each further look, until `deadline` (of `time.monotonic`)."""
    pause = _FIRST_PAUSE_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        yield min(left, pause * random.uniform(0.5, 1.5))  # noqa: S311 (spreads callers, hides nothing)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
