"""Locks that show, on one host, which processes live.

Every process that runs turns holds a lock on a file of its own for each database, and its lease tokens name that file.
The kernel releases the lock when the process ends, however it ends. So whoever can take the lock knows at once that the
turn's process is dead; whoever cannot, that it lives, even if its lease has expired. Process ids would not do: they are
reused, and they differ between containers. If the file cannot be found, the process is on another host, belongs to
another user, or has no folder for its file: then the lease decides.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from convstore.leases.lock_folders import UntrustedFolder, find_folder_beside, find_folders, open_folder, remove_folder

_logger = logging.getLogger(__name__)

_OLD_FILE_SECONDS = 86_400
_MAX_TRIES = 100
"""Other processes may remove the empty folder so many times between its making and the making of a file in it."""


@dataclass(slots=True, eq=False)
class _LockFile:
    """The lock file of this process for one database."""

    database: Path | None
    name: str
    path: Path | None = None
    """None: it could not be made."""
    descriptor: int = -1
    held: set[str] = field(default_factory=set)
    """The tokens of turns that run."""
    has_abandoned: bool = False


_guard = threading.Lock()
_files: dict[Path | None, _LockFile] = {}
"""The lock files in use, by database."""
_named: dict[str, _LockFile] = {}
"""The lock files by name: those in use, and those that somebody removed while turns were running."""


def make_token(database: Path | None) -> str:
    """Return a new random lease token that names this process; `release_token` ends it.

    Args:
        database: the SQLite file, which must exist; None: the database is in memory or on a server.
    """
    with _guard:
        file = _files.get(database)
        if file is None or not _mark_used(file):
            file = _files[database] = _make_file(database)
            _named[file.name] = file
        token = f"{file.name}.{secrets.token_hex(8)}"
        file.held.add(token)
    return token


def release_token(token: str) -> None:
    """Record that the turn of this token is over."""
    file = _find_own(token)
    if file is not None:
        with _guard:
            file.held.discard(token)
            if _files.get(file.database) is not file:
                _close_unused(file)


def abandon_token(token: str) -> None:
    """Record that nobody works on the turn of this token any more, while the database may not know it."""
    file = _find_own(token)
    if file is not None:
        with _guard:
            file.held.discard(token)
            if file.path is not None:
                with suppress(OSError):
                    os.write(file.descriptor, f"{token}\n".encode())
                    file.has_abandoned = True


def close_lock(database: Path | None, *, blocking: bool = True) -> None:
    """Remove the lock file of a database, and its folder if it is empty, unless a turn of this process needs it.

    Args:
        blocking: False: do nothing if another call is at work here. The garbage collector may interrupt one.
    """
    if _guard.acquire(blocking=blocking):
        try:
            file = _files.get(database)
            if file is not None:
                _close_unused(file)
        finally:
            _guard.release()


def is_alive(token: str, database: Path | None) -> bool | None:
    """Return True if the process of a lease token works on its turn, None if unknown (another host)."""
    own = _find_own(token)
    if own is not None:
        return token in own.held
    name = token.partition(".")[0]
    if name.isalnum():
        for folder in find_folders(database):
            with suppress(OSError), open_folder(folder) as at:
                return _ask(at, name, token)
    return None


def _find_own(token: str) -> _LockFile | None:
    return _named.get(token.partition(".")[0])


def _ask(folder: int, name: str, token: str) -> bool:
    """Return True if the process of a lock file works on the turn of a token.

    Raises:
        OSError: unknown: the file does not exist, or the file system has no locks.
    """
    descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    try:
        # Shared: others may be asking at the same time, and a child forked meanwhile has a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return not _is_abandoned(token, descriptor)
    else:
        return False
    finally:
        os.close(descriptor)


def _is_abandoned(token: str, descriptor: int) -> bool:
    with suppress(OSError):
        return token.encode() in os.pread(descriptor, os.fstat(descriptor).st_size, 0).splitlines()
    return False


def _make_file(database: Path | None) -> _LockFile:
    file = _LockFile(database, secrets.token_hex(16))
    for folder in find_folders(database):
        with suppress(OSError):
            file.descriptor = _make_locked(folder, file.name)
            file.path = folder / file.name
            return file
    _warn_without_folder()
    return file


def _make_locked(folder: Path, name: str) -> int:
    """Make a lock file in a folder, lock it, and return its descriptor.

    Raises:
        OSError: the folder cannot be used.
    """
    for tries_left in reversed(range(_MAX_TRIES)):
        try:
            with open_folder(folder, makes=True) as at:
                flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
                descriptor = os.open(name, flags, 0o600, dir_fd=at)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:  # the file system has no locks
                    os.close(descriptor)
                    os.unlink(name, dir_fd=at)
                    raise
                _remove_old(at)
                return descriptor
        except UntrustedFolder:
            raise
        except FileNotFoundError:  # another process has removed the empty folder
            if not tries_left or not folder.parent.is_dir():
                raise
        except OSError:
            remove_folder(folder)
            raise
    raise AssertionError


def _remove_old(folder: int) -> None:
    """Remove the files of processes that died in the middle of a turn: after a day, nobody asks about them."""
    for name in os.listdir(folder):
        with suppress(OSError):
            old = os.stat(name, dir_fd=folder).st_mtime < time.time() - _OLD_FILE_SECONDS
            if old and not _ask(folder, name, name):
                os.unlink(name, dir_fd=folder)


def _mark_used(file: _LockFile) -> bool:
    """Note in the file's time that a turn begins; return False if somebody has removed the file."""
    if file.path is None:
        return True
    try:
        os.utime(file.descriptor)  # so that the file of a process that dies after days is kept for a day
        return bool(os.fstat(file.descriptor).st_nlink)
    except OSError:
        return True


def _close_unused(file: _LockFile) -> None:
    """Close and remove a lock file, unless a turn needs it. `_guard` must be held."""
    # While a stored turn still says running, the file stays: it tells the next caller at once that nobody works on it.
    if file.held or file.has_abandoned:
        return
    if _files.get(file.database) is file:
        del _files[file.database]
    del _named[file.name]
    if file.path is not None:
        with suppress(OSError):
            file.path.unlink()
        os.close(file.descriptor)
        if file.database is not None and file.path.parent == find_folder_beside(file.database):
            remove_folder(file.path.parent)


@atexit.register
def _leave() -> None:
    for file in list(_named.values()):
        _close_unused(file)


@cache
def _warn_without_folder() -> None:
    """Log once that only the leases show which processes live."""
    _logger.warning("no folder for lock files: only its lease tells whether a process is dead")


def _after_fork() -> None:
    """Forget the parent's locks, so that they do not outlive the parent through a forked child."""
    global _guard  # noqa: PLW0603
    _guard = threading.Lock()
    for file in _named.values():
        if file.path is not None:
            os.close(file.descriptor)
    _files.clear()
    _named.clear()


os.register_at_fork(after_in_child=_after_fork)
