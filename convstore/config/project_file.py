"""Find and read the project file, `.convstore.toml`.

Only the command line uses it (docs/decisions/0046-what-a-project-file-may-do.md). It may come with files of other
people, so it can set two things only, and without the user's trust only a SQLite file in its own folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convstore.config.database_location import is_file_below, place_database
from convstore.errors import InvalidInput

if TYPE_CHECKING:
    from convstore.config.toml_files import TomlFile

PROJECT_FILE_NAME = ".convstore.toml"
_KEYS = ("database", "conversation")


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """What the project file of a folder sets."""

    path: Path
    database: str | None = None
    """A URL, or the whole path of a SQLite file."""
    conversation: str | None = None
    problem: str | None = None
    """Why the file was not read; None: it was."""


def find_project_file(folder: Path) -> Path | None:
    """Return the project file of a folder or the nearest one above it, or None.

    The search ends before the home folder, and at the edge of the file system.
    """
    home = _find_home()
    here = Path(os.path.realpath(folder))
    try:
        device = here.stat().st_dev
    except OSError:
        return None
    while here != home:
        path = here / PROJECT_FILE_NAME
        if os.path.lexists(path):
            return path
        above = here.parent
        try:
            if above == here or above.stat().st_dev != device:
                return None
        except OSError:
            return None
        here = above
    return None


def _find_home() -> Path | None:
    try:
        return Path(os.path.realpath(Path.home()))
    except RuntimeError:
        return None


def read_project_settings() -> ProjectSettings | None:
    """Return what the project file of the working folder sets, or None.

    A file that another user owns or may write is not read: `problem` says why.

    Raises:
        InvalidInput: the file has a mistake, or names a database that needs the user's trust.
    """
    try:
        path = find_project_file(Path.cwd())
    except OSError:  # the working folder was removed
        return None
    if path is None:
        return None
    problem = find_problem(path)
    if problem is not None:
        return ProjectSettings(path, problem=problem)
    from convstore.config.toml_files import read_toml  # here, because most folders have no such file

    file = read_toml(path, follows_links=False)
    if file is None:
        return None
    if _is_open_to_others(file.mode, file.uid):  # it was replaced since
        return ProjectSettings(path, problem=_describe(file.mode, file.uid))
    return check_project_settings(file)


def find_problem(path: Path) -> str | None:
    """Return why a project file is not read, or None."""
    try:
        found = path.lstat()
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if path.is_symlink():
        return "it is a symbolic link"
    return _describe(found.st_mode, found.st_uid) if _is_open_to_others(found.st_mode, found.st_uid) else None


def _is_open_to_others(mode: int, uid: int) -> bool:
    return uid != os.geteuid() or bool(mode & 0o022)


def _describe(mode: int, uid: int) -> str:
    if uid != os.geteuid():
        return f"it belongs to another user (uid {uid})"
    return f"others may write it (mode {mode & 0o7777:04o}); `chmod go-w` makes it yours alone"


def _is_trusted(file: TomlFile) -> bool:
    from convstore.config.trusted_files import is_trusted

    return is_trusted(file.path, file.text)


def check_project_settings(file: TomlFile, *, trusts: bool = False) -> ProjectSettings:
    """Return the settings of a project file.

    Args:
        trusts: whether the database may be anywhere; else, only if the user trusts the file.

    Raises:
        InvalidInput: a key or a value is wrong, or the database needs the user's trust.
    """
    table = file.check_keys((), _KEYS)
    for key, value in table.items():
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise file.make_error((key,), f"'{key}' must be a text in quotes, on one line")
    database = table.get("database")
    if database is not None:
        folder = file.path.parent
        needs_trust = not is_file_below(database, folder)
        if needs_trust and not trusts and not _is_trusted(file):
            kind = "a server" if "://" in database and not database.startswith("sqlite") else "a database elsewhere"
            raise InvalidInput(
                f"the project file {file.path} names {kind}, which is used only if you trust the file as it is now: "
                f"`convstore config trust {file.path}`; --db or CONVSTORE_DB name another database"
            )
        database = place_database(database, folder)
    return ProjectSettings(file.path, database, table.get("conversation"))
