"""Show on a terminal how far long work has come."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

_SECONDS_BETWEEN = 0.2


class Progress:
    """A line on stderr that counts; nothing is written if stderr is no terminal.

    Args:
        what: the plural of what is counted.
        as_json: whether the command prints JSON; then nothing is written either.
    """

    def __init__(self, what: str, *, as_json: bool = False) -> None:
        self._what = what
        self._is_shown = sys.stderr.isatty() and not as_json
        self._began = self._shown = time.monotonic()
        self._has_line = False

    def show(self, count: int, share: float | None = None) -> None:
        """Write the count, the rate and, if it is known which share of the whole that is, the time left.

        Args:
            share: from 0 to 1; None: unknown.
        """
        now = time.monotonic()
        if not self._is_shown or now - self._shown < _SECONDS_BETWEEN:
            return
        self._shown, self._has_line = now, True
        rate = count / max(now - self._began, 0.001)
        left = f", {_describe_seconds((now - self._began) * (1 - share) / share)} left" if share else ""
        sys.stderr.write(f"\r{count:,} {self._what}, {rate:,.0f} a second{left}\033[K")
        sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._has_line:
            sys.stderr.write("\r\033[K")  # the line, and what is left of it
            sys.stderr.flush()


def _describe_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s" if minutes else f"{rest} s"
