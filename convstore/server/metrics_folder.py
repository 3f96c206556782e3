"""The folder in which the processes of one service keep their measurements, and its end.

It is a private folder in the temporary one. The first process holds a lock on a file in it, so that a later service can
tell that a folder was left behind by one that was killed, and remove it.
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
_LOCK = "lock"


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
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # of mode 0700
    try:
        with (folder / "new").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "new").rename(folder / _LOCK)  # from now on, others may look whether it is locked
            os.environ[_VARIABLES[0]] = str(folder)
            yield str(folder)
    finally:
        os.environ.pop(_VARIABLES[0], None)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left_folders() -> None:
    """Remove the folders of this user's services that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is in use, has no lock yet, or is another user's
            if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
                continue
            with (folder / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def forget_process(folder: str, pid: int) -> None:
    """Remove what a process that has ended said about its present state; its counts stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
