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
class _Files:
    """The files of a database."""

    database: Path
    log: Path
    index: Path
    mark: Path


def check_log(path: Path) -> None:
    """Check that the log beside a database file belongs to it.

    Raises:
        DatabaseUnavailable: the database file was replaced, and the log was not.
    """
    files = _find_files(path)
    found = _look(files)
    if found is None or files.log.stat().st_size == 0:
        return
    mark = _read(files)
    if mark is not None and mark.database != found.database and mark.log == found.log:
        raise DatabaseUnavailable(
            f"database {path}: its file was replaced, but the log {files.log} belongs to the file before; nothing was "
            f"read or written; stop all programs that use it, then move {files.log.name}, {files.index.name} and "
            f"{files.mark.name} away (docs/sqlite.md says how to restore a backup)"
        )


def write_mark(path: Path) -> None:
    """Note that the log beside a database file belongs to it. Nothing happens if the folder cannot be written."""
    files = _find_files(path)
    found = _look(files)
    if found is None or found == _read(files):
        return
    new = files.mark.with_name(f"{files.mark.name}.{os.getpid()}")
    with suppress(OSError):
        descriptor = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as mark:
            os.fchmod(descriptor, files.database.stat().st_mode & 0o666)
            mark.write(" ".join(str(number) for number in (*found.database, *found.log)) + "\n")
        new.replace(files.mark)


def remove_mark(path: Path) -> None:
    """Remove the mark of a database file that has no log any more."""
    files = _find_files(path)
    with suppress(OSError):
        if not files.log.exists():
            files.mark.unlink()


def _find_files(path: Path) -> _Files:
    # SQLite keeps the log beside the file that a symbolic link names.
    file = Path(os.path.realpath(path))
    return _Files(file, *(file.with_name(file.name + suffix) for suffix in ("-wal", "-shm", "-convstore")))


def _look(files: _Files) -> _Mark | None:
    """Return what is there now; None: there is no log."""
    try:
        database, log = files.database.stat(), files.log.stat()
    except OSError:
        return None
    return _Mark((database.st_dev, database.st_ino), (log.st_dev, log.st_ino))


def _read(files: _Files) -> _Mark | None:
    """Return the mark, or None if it does not exist or cannot be read."""
    try:
        device, inode, log_device, log_inode = (int(number) for number in files.mark.read_text().split())
    except (OSError, ValueError):
        return None
    return _Mark((device, inode), (log_device, log_inode))
