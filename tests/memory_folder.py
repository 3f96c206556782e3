"""Keep the temporary files of the tests in memory, where the system has room for that.

Thousands of small databases are made, synchronised with the disk and deleted. In memory that takes a tenth less of the
processor's time, and nobody waits for a disk. No test needs a disk: the crashes are of processes, not of machines.

To keep the files after a run, or to use another place, name one: `TMPDIR=/tmp make test`.
"""

import os
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_PREFIX = "conv-"  # short, because the path of a socket has 107 bytes at most
_ENOUGH_BYTES = 4 << 30  # a run needs one quarter of it


def use() -> Path | None:
    """Let this process and its children make their temporary files in a new folder in memory, and return it.

    Return None, and change nothing, if the environment names a place, or if the system has no folder in memory with
    enough room from which programs can be run.
    """
    if "TMPDIR" in os.environ or not _has_room():
        return None
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_MEMORY))
    folder.chmod(0o711)  # PostgreSQL may run as another user
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    return folder


def _has_room() -> bool:
    try:
        found = os.statvfs(_MEMORY)
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return False
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    room = min(found.f_bavail * found.f_frsize, kilobytes << 10)
    return room >= _ENOUGH_BYTES and not found.f_flag & os.ST_NOEXEC and os.access(_MEMORY, os.W_OK)


def _remove_abandoned() -> None:
    """Remove the folders of runs that were killed."""
    for folder in _MEMORY.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists() and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
