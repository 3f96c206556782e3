"""Notice that a SQLite file was replaced beside its log.

In WAL mode, a part of the data is in the log, the file `-wal`. If somebody moves a backup over the database file and
leaves the log, SQLite takes the pages of the log for the backup's, and destroys both. So a small file beside the log,
the mark, says which database file the log belongs to. It is read before SQLite opens anything.

A file is known by its device and inode. If the database, its log and the mark are copied to another place together, all
of them are new, and the copy may be opened. A file that was written over in place (`cp backup.db chat.db`) keeps its
inode, and is not noticed.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from convstore.errors import DatabaseUnavailable


@dataclass(frozen=True, slots=True)
class _Mark:
    """Which database file a log belongs to: the device and inode of both."""

    database: tuple[int, int]
    log: tuple[int, int]


@dataclass(frozen=True, slots=True)
class DatabaseFiles:
    """The files of a database."""

    database: Path
    log: Path
    index: Path
    mark: Path
    journal: Path


def check_log(path: Path) -> None:
    """Check that the log beside a database file belongs to it.

    Raises:
        DatabaseUnavailable: the database file was replaced, and the log was not.
    """
    files = find_files(path)
    log = _stat(files.log)
    if log is None or log.st_size == 0:
        return
    mark = _read(files)
    if mark is not None and mark.log == _identify(log) and mark.database != find_file_identity(files.database):
        raise DatabaseUnavailable(
            f"database {path}: its file was replaced, but the log {files.log} belongs to the file before; nothing was "
            f"read or written; stop all programs that use it, then move {files.log.name}, {files.index.name} and "
            f"{files.mark.name} away (docs/sqlite.md says how to restore a backup)"
        )


def write_mark(path: Path, database: tuple[int, int]) -> None:
    """Note to which database file the log beside it belongs. Nothing happens if the folder cannot be written.

    Args:
        database: the device and inode of the file that was opened. Another file may be at `path` now.
    """
    files = find_files(path)
    log = find_file_identity(files.log)
    if log is None or _read(files) == _Mark(database, log):
        return
    new = files.mark.with_name(f"{files.mark.name}.{os.getpid()}-{threading.get_ident()}")
    with suppress(OSError):
        descriptor = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as mark:
            os.fchmod(descriptor, files.database.stat().st_mode & 0o666 | 0o200)
            mark.write(" ".join(str(number) for number in (*database, *log)) + "\n")
        new.replace(files.mark)


def remove_mark(path: Path) -> None:
    """Remove the mark of a database file that has no log any more."""
    files = find_files(path)
    with suppress(OSError):
        if not files.log.exists():
            files.mark.unlink()


def find_files(path: Path) -> DatabaseFiles:
    """Return the files of the database at `path`; they need not exist."""
    # SQLite keeps the log beside the file that a symbolic link names.
    file = Path(os.path.realpath(path))
    return DatabaseFiles(
        file, *(file.with_name(file.name + suffix) for suffix in ("-wal", "-shm", "-convstore", "-journal"))
    )


def find_file_identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, or None if it does not exist or may not be seen."""
    found = _stat(path)
    return _identify(found) if found is not None else None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()  # once: the file may disappear at any moment
    except OSError:
        return None


def _identify(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _read(files: DatabaseFiles) -> _Mark | None:
    """Return the mark, or None if it does not exist or cannot be read."""
    try:
        device, inode, log_device, log_inode = (int(number) for number in files.mark.read_text().split())
    except (OSError, ValueError):
        return None
    return _Mark((device, inode), (log_device, log_inode))
