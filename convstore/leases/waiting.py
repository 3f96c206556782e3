"""Waiting for a conversation that a turn holds: without a transaction, by looking again and again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from typing import Any

from convstore.errors import ConversationBusy
from convstore.values.steps import DatabaseWork, Pause, Steps

_logger = logging.getLogger(__name__)

LOCK_WAIT_SECONDS = 30.0
"""How long a call waits that may run beside a turn, while another transaction holds the conversation's row."""

_SILENT_SECONDS = 1.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.4


def repeat_while_busy(attempt: DatabaseWork, is_held: DatabaseWork, seconds: float) -> Steps[Any]:
    """Return the result of `attempt`; while a turn holds the conversation, wait and repeat it.

    Args:
        is_held: only reads; returns True if a turn holds the conversation.
        seconds: how long to wait at most.

    Raises:
        ConversationBusy: a turn still held the conversation after that time.
    """
    began = time.monotonic()
    deadline = began + seconds
    has_told = False
    while True:
        try:
            return (yield attempt)
        except ConversationBusy:
            if time.monotonic() >= deadline:
                raise
        for pause in yield_pauses(deadline):
            yield Pause(pause)
            if not (yield is_held):
                break
            if not has_told and time.monotonic() - began >= _SILENT_SECONDS:
                has_told = True
                _logger.info("waiting for a running turn, %.0f s so far", time.monotonic() - began)


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
