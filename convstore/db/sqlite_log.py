"""Keep the log of a SQLite file (`-wal`) small, and tell who keeps it from shrinking.

SQLite adds every write to the log, and copies it into the database after about 1,000 pages. It can copy only what no
open read transaction may still need, so a long read makes the log grow. When the read has ended, the next writes copy
the rest, and `LOG_LIMIT_BYTES` gives the space back (https://sqlite.org/wal.html#avoiding_excessively_large_wal_files).
"""

from __future__ import annotations

import logging
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convstore.db.sqlite_log_mark import find_files

_logger = logging.getLogger(__name__)

LOG_LIMIT_BYTES = 4 * 2**20
"""A larger log is cut to this size when SQLite begins it anew. At about this size SQLite copies it."""
LARGE_LOG_BYTES = 64 * 2**20
"""A warning is logged when the log is larger, and again each time it has doubled."""


@dataclass(frozen=True, slots=True)
class LogState:
    """How large the log is, and how much of it cannot be copied into the database yet, in bytes."""

    size: int
    held: int


def measure_log(path: Path) -> int:
    """Return the size of the log of a database file in bytes; 0 if it has none."""
    try:
        return find_files(path).log.stat().st_size
    except OSError:
        return 0


def copy_log(connection: sqlite3.Connection, path: Path, *, shrink: bool = False) -> LogState:
    """Copy the log into the database file as far as no reader needs it, without waiting for anybody.

    Args:
        shrink: whether the log is cut to nothing if all of it was copied and nobody else is using it.
    """
    waits = _read_number(connection, "PRAGMA busy_timeout")
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        row = connection.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if shrink else 'PASSIVE'})").fetchone()
    except sqlite3.OperationalError:
        return LogState(measure_log(path), 0)  # the file is read-only, or another program locks it
    finally:
        connection.execute(f"PRAGMA busy_timeout = {waits}")
    _, pages, copied = row
    frame_bytes = _read_number(connection, "PRAGMA page_size") + 24  # https://sqlite.org/fileformat2.html#walformat
    return LogState(measure_log(path), max(0, pages - copied) * frame_bytes)


class LogWatch:
    """Warns in the log of the program when the log of a database has become large."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._warn_at = LARGE_LOG_BYTES

    def check(self, log: str) -> None:
        """Look at the size of a log; called after each write.

        Args:
            log: the file.
        """
        try:
            size = os.stat(log).st_size  # noqa: PTH116 (faster than a `Path`)
        except OSError:
            return
        if size < self._warn_at:
            if size < LARGE_LOG_BYTES:
                self._warn_at = LARGE_LOG_BYTES
            return
        self._warn_at = 2 * size
        label, megabytes = self._path, size / 1_000_000
        _logger.warning(
            "database %s: its log has %.1f MB; the next writes shrink it, unless a read transaction that began long "
            "ago holds it back: `convstore db check` tells",
            label,
            megabytes,
        )


def format_megabytes(size: int) -> str:
    """Return a number of bytes as people read it, such as "245.1 MB"."""
    return f"{size / 1_000_000:,.1f} MB"


def _read_number(connection: Any, pragma: str) -> int:
    return int(connection.execute(pragma).fetchone()[0])
