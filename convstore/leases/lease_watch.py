"""Whether a lease has ended, if the clock of its holder is unknown.

A SQLite file may be used from containers and hosts with clocks that differ. What a holder wrote as its lease's expiry
is then hours ahead or long past. But a holder that lives renews its lease at every third of its span, and the renewal
changes the row, whatever the clock says. So the row is watched: an expiry that has passed must also have stayed
unchanged for longer than it takes to renew a lease, and one that stayed unchanged for the whole span has ended.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from datetime import datetime, timedelta

DEFAULT_LEASE_SECONDS = 30.0
"""How long a turn holds its conversation after its process was last heard of."""
MAX_CLOCK_DIFFERENCE = timedelta(days=1)
"""Clocks that differ by more are not expected: a lease that expired longer ago has ended, without a watch."""
CLOCK_TOLERANCE_SECONDS = 1.0
"""Clocks that are kept in step differ by less."""
WATCHED_SHARE_IF_EXPIRED = 1 / 2
"""The share of the span for which an expired lease must stay unchanged; renewals come every third of the span."""
WATCHED_SHARE_IF_NOT_BELIEVED = 3 / 4
"""The same for an expiry that no holder with this clock can have written.

A caller that waits as long as a lease lasts, 30 seconds each by default, then still takes the conversation.
"""
_MAX_LEASES = 4096


def has_ended(expires_at: datetime | None, span_seconds: float, now: datetime, watched_seconds: float) -> bool:
    """Return True if a lease has ended, by a clock that may not be its holder's.

    Args:
        expires_at: the moment that its holder wrote, by its own clock; None: unknown.
        span_seconds: how long the lease lasts if it is not renewed.
        now: the present moment, by this host's clock.
        watched_seconds: for how long `expires_at` is known to be unchanged.
    """
    if watched_seconds >= span_seconds:
        return True
    if expires_at is None:
        return False
    if now > expires_at:
        return watched_seconds >= span_seconds * WATCHED_SHARE_IF_EXPIRED or (now - expires_at) > MAX_CLOCK_DIFFERENCE
    first_seen = now - timedelta(seconds=watched_seconds)
    is_believed = (expires_at - first_seen).total_seconds() <= span_seconds + CLOCK_TOLERANCE_SECONDS
    return not is_believed and watched_seconds >= span_seconds * WATCHED_SHARE_IF_NOT_BELIEVED


class LeaseWatch:
    """The leases of others that this process has seen. Threads share it."""

    def __init__(self, max_leases: int = _MAX_LEASES) -> None:
        self._max_leases = max_leases
        self._seen: OrderedDict[str, tuple[datetime | None, float]] = OrderedDict()
        self.renew_lock_after_fork()

    def renew_lock_after_fork(self) -> None:
        """Replace the lock in a forked child: no thread of the child would release it."""
        self._lock = threading.Lock()

    def measure(self, token: str, expires_at: datetime | None, read_after: float) -> float:
        """Return for how many seconds the expiry of a lease is known to be unchanged.

        Args:
            token: the token of the lease.
            expires_at: the expiry that was just read.
            read_after: a moment before it was read, by `time.monotonic`. A process may stand still after it has read
                a row, and this time does not count.
        """
        with self._lock:
            known, since = self._seen.pop(token, (None, None))
            if since is None or known != expires_at:
                since = time.monotonic()
            self._seen[token] = (expires_at, since)
            if len(self._seen) > self._max_leases:
                self._seen.popitem(last=False)
        return max(0.0, read_after - since)


LEASES = LeaseWatch()
"""The leases that this process has seen."""

os.register_at_fork(after_in_child=LEASES.renew_lock_after_fork)
