"""Locks that show, on one host, which processes live.

Every process that runs turns holds a lock on a file of its own, and its lease tokens name that file. The kernel
releases the lock when the process ends, however it ends. So whoever can take the lock knows at once that the turn's
process is dead; whoever cannot, that it lives, even if its lease has expired. Process ids would not do: they are
reused, and they differ between containers. If the file does not exist, the process is on another host or in another
container: then the lease's expiry decides.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import secrets
import stat
import tempfile
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

_logger = logging.getLogger(__name__)

_OLD_FILE_SECONDS = 86_400

_guard = threading.Lock()
_descriptor: int | None = None
_name: str | None = None
_held: set[str] = set()
_has_abandoned = False


def make_token() -> str:
    """Return a new random lease token that names this process; `release_token` ends it."""
    token = f"{_process_name()}.{secrets.token_hex(8)}"
    _held.add(token)
    return token


def release_token(token: str) -> None:
    """Record that the turn of this token is over."""
    _held.discard(token)


def abandon_token(token: str) -> None:
    """Record that nobody works on the turn of this token any more, while the database may not know it."""
    global _has_abandoned  # noqa: PLW0603
    _held.discard(token)
    with _guard:
        if _descriptor is not None:
            with suppress(OSError):
                os.write(_descriptor, f"{token}\n".encode())
                _has_abandoned = True


def is_alive(token: str) -> bool | None:
    """Return True if the process of a lease token works on its turn, None if unknown (another host)."""
    name = token.partition(".")[0]
    if name == _name:
        return token in _held
    folder = _folder()
    if folder is None or not name.isalnum():
        return None
    try:
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        # Shared: others may be asking at the same time, and a child forked meanwhile has a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return not _is_abandoned(token, descriptor)
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(descriptor)


def _is_abandoned(token: str, descriptor: int) -> bool:
    with suppress(OSError):
        return token.encode() in os.pread(descriptor, os.fstat(descriptor).st_size, 0).splitlines()
    return False


def _process_name() -> str:
    global _descriptor, _name  # noqa: PLW0603 (one file for a process)
    with _guard:
        if _name is None:
            name = secrets.token_hex(16)
            folder = _folder()
            if folder is not None:
                with suppress(OSError):  # without a file, other hosts' rule holds here too: the lease's expiry
                    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
                    _descriptor = os.open(folder / name, flags, 0o600)
                    fcntl.flock(_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove_old(folder)
            _name = name
        return _name


def _remove_old(folder: Path) -> None:
    """Remove the files of processes that died in the middle of a turn: after a day, nobody asks about them."""
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _OLD_FILE_SECONDS and is_alive(path.name) is False:
                path.unlink()


@atexit.register
def _leave() -> None:
    # While a stored turn still says running, the file stays: it tells the next caller at once that nobody works on it.
    folder = _folder() if _name is not None else None
    if folder is not None and _name is not None and not _held and not _has_abandoned:
        with suppress(OSError):
            (folder / _name).unlink()


def _folder() -> Path | None:
    """Return this user's folder of lock files; None if it cannot be made or others may write to it."""
    try:
        folder = Path(tempfile.gettempdir()) / f"convstore-{os.getuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError:  # such as a read-only file system without a folder for temporary files
        _warn_without_folder()
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private else None


@cache
def _warn_without_folder() -> None:
    """Log once that only the leases show which processes live."""
    _logger.warning("no folder for lock files: only its lease tells whether a process is dead")


def _after_fork() -> None:
    """Forget the parent's lock, so that it does not outlive the parent through a forked child."""
    global _descriptor, _name, _guard, _has_abandoned  # noqa: PLW0603
    _guard = threading.Lock()
    if _descriptor is not None:
        os.close(_descriptor)
    _descriptor = _name = None
    _has_abandoned = False
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)
