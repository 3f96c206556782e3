"""Limits on how many requests a key, and how many wrong keys an address, may send in a minute.

They are counted in the memory of one process: with several workers, each has its own counts.
"""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from convstore.server.service_errors import ServiceError
from convstore.server.service_settings import ServiceSettings


class RequestRates:
    """Counts requests and wrong keys."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._requests = _make_limit(settings.requests_a_minute, "requests")
        self._failures = _make_limit(settings.failures_a_minute, "failures")

    def count_request(self, key_id: str) -> None:
        """Count a request.

        Raises:
            ServiceError: 429: there were too many.
        """
        self._count(self._requests, key_id, "too many requests with this key in a minute")

    def count_failure(self, address: str) -> None:
        """Count a wrong key.

        Raises:
            ServiceError: 429: there were too many.
        """
        self._count(self._failures, address, "too many wrong keys from this address in a minute")

    def _count(self, limit: RateLimitItemPerMinute | None, of: str, text: str) -> None:
        if limit is None or self._limiter.hit(limit, of):
            return
        seconds = math.ceil(max(1.0, self._limiter.get_window_stats(limit, of).reset_time - time.time()))
        raise ServiceError(
            429, f"{text}; try again later", "rate_limit_exceeded", headers={"retry-after": str(seconds)}
        )


def _make_limit(number: int, name: str) -> RateLimitItemPerMinute | None:
    return RateLimitItemPerMinute(number, namespace=name) if number else None
