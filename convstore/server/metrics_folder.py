"""The folder in which the processes of one service keep their measurements, and its end.

It is a private folder in the temporary one. The first process holds a lock on it, so that a later service can tell that
a folder was left behind by one that was killed, and remove it. systemd-tmpfiles, which removes old files, leaves
folders with such a lock alone: https://www.freedesktop.org/software/systemd/man/latest/tmpfiles.d.html#Age
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
_PREFIX = "convstore-metrics-"


@contextmanager
def open_metrics_folder(workers: int) -> Iterator[str | None]:
    """Make the folder and yield its path; None: there is one process, which needs none.

    It sets the variable that prometheus_client reads when it is imported, in this process and those that it starts.
    A folder that the environment names is not used: its numbers would be those of other programs too.
    """
    for name in _VARIABLES:
        os.environ.pop(name, None)
    if workers == 1:
        yield None
        return
    _remove_left_folders()
    folder, lock = _make_locked_folder()
    os.environ[_VARIABLES[0]] = folder
    try:
        yield folder
    finally:
        os.environ.pop(_VARIABLES[0], None)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make_locked_folder() -> tuple[str, int]:
    """Return a new folder of mode 0700, and the descriptor that holds its lock."""
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        lock = -1
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if Path(folder).exists():
                return folder, lock
        # Another service took it for one that was left behind, before it was locked.
        if lock >= 0:
            os.close(lock)


def _remove_left_folders() -> None:
    """Remove the folders of this user's services that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is in use, or is another user's
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def forget_process(folder: str, pid: int) -> None:
    """Remove what a process that has ended said about its present state; its counts stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
