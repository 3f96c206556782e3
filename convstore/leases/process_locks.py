"""Tells, on one host, a process that is dead from one that is merely slow.

Every process that runs turns holds a lock on a file of its own, and names that file in its lease tokens. The kernel
lets go of the lock when the process ends, however it ends. So whoever can take the lock knows at once that the turn's
process is dead; whoever cannot, that it lives, even if its lease has run out. Process ids would not do: they are used
again, and differ between containers. A file that is not there means another host, or another container: then the
lease's expiry decides.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import stat
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

_DAY = 86_400  # seconds

_guard = threading.Lock()
_descriptor: int | None = None
_name: str | None = None
_held: set[str] = set()
_has_abandoned = False


def new_token() -> str:
    """Return a fresh random lease token that names this process; `release` it when its turn is over."""
    token = f"{_process_name()}.{secrets.token_hex(8)}"
    _held.add(token)
    return token


def release(token: str) -> None:
    """The turn of this token is over."""
    _held.discard(token)


def abandon(token: str) -> None:
    """Nobody works on the turn of this token any more, and the database may not know it: `is_alive` says so instead."""
    global _has_abandoned  # noqa: PLW0603
    _held.discard(token)
    with _guard:
        if _descriptor is not None:
            with suppress(OSError):
                os.write(_descriptor, f"{token}\n".encode())
                _has_abandoned = True


def is_alive(token: str) -> bool | None:
    """Whether the process that made a lease token works on its turn; None where that cannot be told from here."""
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
    """Remove the files that processes left which died in mid-turn: after a day, nobody asks about them."""
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _DAY and is_alive(path.name) is False:
                path.unlink()


@atexit.register
def _leave() -> None:
    # With a turn still on record as running, the file stays: it tells the next caller at once that nobody is behind it.
    folder = _folder() if _name is not None else None
    if folder is not None and _name is not None and not _held and not _has_abandoned:
        with suppress(OSError):
            (folder / _name).unlink()


def _folder() -> Path | None:
    """Return this user's folder of lock files; None where it cannot be made, or is not this user's alone."""
    folder = Path(tempfile.gettempdir()) / f"convstore-{os.getuid()}"
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private else None


def _after_fork() -> None:
    """A forked child is another process: its parent's lock must not outlive the parent through it."""
    global _descriptor, _name, _guard, _has_abandoned  # noqa: PLW0603
    _guard = threading.Lock()
    if _descriptor is not None:
        os.close(_descriptor)
    _descriptor = _name = None
    _has_abandoned = False
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)
