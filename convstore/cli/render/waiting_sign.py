"""A sign that moves while the model is awaited, and nothing else moves."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SECONDS_BEFORE = 0.4
"""A reply that begins sooner has no sign."""
_SECONDS_BETWEEN = 0.1
_ERASE_LINE = "\r\x1b[K"


class WaitingSign:
    """A sign on stderr, and the seconds; nothing is written if stderr is no terminal that can be redrawn.

    It stands at the end of what was written, at the beginning of a line, and leaves the cursor there: whatever is
    written next writes over it.
    """

    def __init__(self, *, is_shown: bool = True) -> None:
        can_redraw = sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
        self._is_shown = is_shown and can_redraw
        self._removed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._is_shown:
            self._thread = threading.Thread(target=self._move, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the sign; something else is written from now on."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._removed.set()
            thread.join()

    def _move(self) -> None:
        began = time.monotonic()
        if self._removed.wait(_SECONDS_BEFORE):
            return
        frames = _FRAMES if (sys.stderr.encoding or "").lower().replace("-", "") == "utf8" else "|/-\\"
        number = 0
        with suppress(OSError, ValueError):  # a closed stderr must not end a turn
            while not self._removed.is_set():
                sys.stderr.write(f"\r{frames[number % len(frames)]} {time.monotonic() - began:.0f} s\x1b[K\r")
                sys.stderr.flush()
                number += 1
                self._removed.wait(_SECONDS_BETWEEN)
            sys.stderr.write(_ERASE_LINE)
            sys.stderr.flush()
