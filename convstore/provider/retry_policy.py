"""Decide whether a failed call may be repeated, and after how many seconds."""

from __future__ import annotations

import random
import re
import time
from email.utils import parsedate_to_datetime

DEFAULT_RETRIES = 2
"""How often a call is repeated if the model surely generated nothing."""

# The provider says that it did not start to generate: too many requests, or it is overloaded.
_RETRYABLE_STATUSES = (429, 503)
# Errors of httpx from before a request is sent.
_CONNECT_ERROR_NAMES = ("ConnectError", "ConnectTimeout", "PoolTimeout")
_FIRST_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.5, 8.0
_MAX_RETRY_AFTER_SECONDS = 60.0
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def compute_retry_delay(error: BaseException, attempt: int) -> float | None:
    """Return the seconds to wait before repeating a call, or None to not repeat it.

    A call is repeated only if nothing can have been generated: the connection was never made, or the provider refused
    with 429 or 503. A reply that was lost on its way may have been paid for, and a second call would double it.

    Args:
        error: what the call raised.
        attempt: how many calls were repeated before this one, from 0.
    """
    status = getattr(error, "status_code", None)
    if status in _RETRYABLE_STATUSES:
        if getattr(error, "code", None) == "insufficient_quota":
            return None  # waiting will not help
        requested = _read_retry_after(error)
        if requested is not None:
            return requested if requested <= _MAX_RETRY_AFTER_SECONDS else None
    elif type(error.__cause__).__name__ not in _CONNECT_ERROR_NAMES:
        return None
    backoff: float = min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2**attempt)
    return backoff * random.uniform(0.75, 1.25)  # noqa: S311


def _read_retry_after(error: BaseException) -> float | None:
    """Return the seconds of a `Retry-After` header, or None if it has none."""
    # RFC 9110, 10.2.3: seconds, or a date.
    value = getattr(getattr(error, "response", None), "headers", {}).get("retry-after")
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None  # negative, not a number, no date: the usual wait
