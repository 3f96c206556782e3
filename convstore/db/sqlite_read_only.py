"""Open SQLite files that this process may only read.

To read a file in WAL mode, SQLite needs its log and the index of the log, and gives them the mode of the database.
Beside a database of mode 0400 they could not be written later, when the database can
(https://sqlite.org/wal.html#read_only_databases).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from convstore.db.sqlite_log_mark import find_file_identity, find_files
from convstore.errors import DatabaseUnavailable

# Bytes 18 and 19 of a file in WAL mode: https://sqlite.org/fileformat2.html#file_format_version_numbers
_WAL_VERSION = 2

_descriptors: dict[tuple[int, int], int] = {}
"""Of databases that may only be read, by device and inode."""


def prepare_reading(path: Path) -> bool:
    """Prepare for SQLite to open a database that may only be read; return True if it is `immutable`.

    It is if it is on a read-only mount and has no log. Others may still write it there: `find_version` tells. Nothing
    happens if this process may write the database.

    Raises:
        DatabaseUnavailable: SQLite cannot read it, or would leave a log that its owner cannot write.
    """
    files = find_files(path)
    if _may_write(files.database) or _exists(files.index) or not _is_wal(files.database):
        return False
    if _may_write(files.database.parent):
        if _has_writer(files.database):
            raise DatabaseUnavailable(
                f"database {path}: you may not write it, and it has no log now; SQLite would create {files.log.name} "
                "as your file, and the owner could not write any more; read it as its owner, or copy it"
            )
        return False
    advice = "read it as a user who may write there, or copy the database, with its log, to another folder"
    for beside in (files.log, files.journal):
        if _measure(beside) > 0:
            raise DatabaseUnavailable(
                f"database {path}: a part of its data is in {beside}, and SQLite cannot create {files.index}, which it "
                f"needs to read it, because the folder is read-only; {advice}"
            )
    if not _is_mount_read_only(files.database.parent):
        raise DatabaseUnavailable(
            f"database {path}: SQLite cannot create {files.index}, which it needs to read it, because the folder is "
            f"read-only; {advice}"
        )
    return True


def make_log_writable(path: Path) -> None:
    """Let the owner write the log that reading a database has left, so that it can be written when the database can.

    Called after SQLite has opened it, because SQLite gives an empty log the mode of the database. The log stays: it
    cannot be known that nobody has it open, and a log that is removed under a writer loses what it writes.
    """
    files = find_files(path)
    if _may_write(files.database):
        return
    for left in (files.log, files.index):
        with suppress(OSError):
            found = left.stat()
            if found.st_uid == os.geteuid() and not found.st_mode & 0o200:
                left.chmod(found.st_mode & 0o777 | 0o200)


def find_version(path: Path) -> tuple[int, int, bool, bool]:
    """Return what changes when a database that was opened as `immutable` must be opened anew.

    Returns:
        The time of its last change, its size, whether a log is beside it, and whether this process may write it.
    """
    files = find_files(path)
    found = files.database.stat()
    has_log = _exists(files.log) or _exists(files.index)
    return found.st_mtime_ns, found.st_size, has_log, _may_write(files.database)


def find_obstacle(path: Path) -> str | None:
    """Return which file or folder keeps this process from writing a database, or None."""
    files = find_files(path)
    for one in (files.database.parent, files.database, files.log, files.index, files.journal):
        if _exists(one) and not _may_write(one):
            return f"{one} may not be written"
    return None


def _has_writer(database: Path) -> bool:
    """Return True if the mode of the file lets anybody write it."""
    return bool(database.stat().st_mode & 0o222)


def _is_wal(database: Path) -> bool:
    """Return True if a database file is in WAL mode.

    The descriptor stays open as long as the process: closing it would drop the locks of SQLite's other connections
    (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    """
    identity = find_file_identity(database)
    if identity is None:
        return False
    try:
        if identity not in _descriptors:
            _descriptors[identity] = os.open(database, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(_descriptors[identity], 2, 18) == bytes([_WAL_VERSION, _WAL_VERSION])
    except OSError:
        return False


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 (`Path.exists` raises if the folder may not be entered)


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _measure(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_mount_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
