"""The folders of lock files: one beside a SQLite file, and one in the temporary folder.

Every process that uses a SQLite file sees the folder beside it, also from containers with temporary folders of their
own. If it cannot be made or is not trusted, and for other databases, the one in the temporary folder is used.

A folder is trusted only if it belongs to this user and is open to nobody else: who can write into it could make a dead
process look alive, and a living one dead.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_logger = logging.getLogger(__name__)

_SUFFIX = "-locks"


class UntrustedFolder(OSError):
    """A folder of lock files belongs to another user, or others may open it."""


def find_folders(database: Path | None) -> list[Path]:
    """Return the folders that may hold the lock files of a database, best first; they need not exist.

    Args:
        database: the SQLite file; None: the database is in memory or on a server.
    """
    found = [find_folder_beside(database)] if database is not None else []
    with suppress(OSError):  # such as a read-only file system without a folder for temporary files
        found.append(Path(tempfile.gettempdir()) / f"convstore-{os.geteuid()}")
    return found


def find_folder_beside(database: Path) -> Path:
    """Return the folder of lock files beside a SQLite file."""
    # Beside the file that a symbolic link names, as SQLite's log: every path to the file leads to one folder.
    file = Path(os.path.realpath(database))
    return file.with_name(file.name + _SUFFIX)


def find_problem_beside(database: Path) -> str | None:
    """Return why the folder beside a SQLite file is not trusted, or None. Makes nothing."""
    folder = find_folder_beside(database)
    try:
        problem = _find_problem(folder.lstat())
    except OSError:  # it does not exist: the next turn makes it, or uses the temporary folder
        return None
    return f"the folder of lock files {folder} {problem}" if problem is not None else None


@contextmanager
def open_folder(folder: Path, *, makes: bool = False) -> Iterator[int]:
    """Open a folder of lock files, and yield its descriptor.

    Args:
        makes: whether the folder is made if it does not exist.

    Raises:
        UntrustedFolder: it is not trusted. One warning is logged for each folder.
        OSError: it does not exist, or cannot be made or opened.
    """
    made = False
    if makes:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            made = True
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if _find_problem(folder.lstat()) is None:
            raise
        _warn_untrusted(folder)
        raise UntrustedFolder(*error.args) from error
    try:
        # The open folder is checked, not its name, which may stand for another folder by now.
        if _find_problem(os.fstat(descriptor)) is not None:
            if made:  # on a file system without modes
                remove_folder(folder)
            _warn_untrusted(folder)
            raise UntrustedFolder(str(folder))
        yield descriptor
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder of lock files if it is empty."""
    with suppress(OSError):
        folder.rmdir()


def _find_problem(found: os.stat_result) -> str | None:
    if not stat.S_ISDIR(found.st_mode):
        return "is not a folder"
    if found.st_uid != os.geteuid():
        return f"belongs to another user (uid {found.st_uid})"
    if found.st_mode & 0o077:
        return f"is open to other users (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


@cache
def _warn_untrusted(folder: Path) -> None:
    """Log once for each folder that it is not trusted."""
    _logger.warning("the folder of lock files %s is not a folder of this user alone: it is not used", folder)
