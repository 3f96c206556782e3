"""How much of the time of grace is left, once the service was asked to end.

uvicorn waits for the connections first, and then lets the application end, whose calls of models may go on without a
client. Together they have the time of grace, not each.
"""

from __future__ import annotations

import time

_end_noted_at: list[float] = []
"""When this process was asked to end; empty: it was not, or there was no connection then."""


def note_end() -> None:
    """Note that this process was asked to end."""
    if not _end_noted_at:
        _end_noted_at.append(time.monotonic())


def find_seconds_left(grace_seconds: float) -> float:
    """Return how many seconds are left of the time of grace."""
    since = _end_noted_at[0] if _end_noted_at else time.monotonic()
    return max(0.0, since + grace_seconds - time.monotonic())
