"""Find the database that a file names, and show URLs without their secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

_SQLITE_URL = re.compile(r"sqlite(?:\+\w+)?:///([^?#]*)$")


def place_database(value: str, folder: Path) -> str:
    """Return the database that a file in `folder` names; a relative path is in there."""
    if "://" not in value:
        return value if value == ":memory:" else str(_place_path(value, folder))
    found = _SQLITE_URL.match(value)
    if found is None or not found[1] or found[1] == ":memory:" or found[1].startswith(("/", "file:")):
        return value
    return f"{value[: found.start(1)]}{_place_path(found[1], folder)}"


def expand_home(value: str) -> str:
    """Return a path with the home folder for a `~` at its beginning, as a shell writes it; a URL stays as it is."""
    return os.path.expanduser(value) if value.startswith("~") else value  # noqa: PTH111


def _place_path(value: str, folder: Path) -> Path:
    return folder / os.path.expanduser(value)  # noqa: PTH111 (`Path.expanduser` raises if there is no such user)


def is_file_below(value: str, folder: Path) -> bool:
    """Return True if a value names a SQLite file in a folder or below it."""
    placed = place_database(value, folder)
    if placed == ":memory:":
        return False
    if "://" in placed:
        found = _SQLITE_URL.match(placed)
        if found is None or not found[1].startswith("/"):
            return False
        placed = found[1]
    elif re.match(r"[\w+.-]+:", value):  # such as `postgresql:…`, or `file:`
        return False
    real = Path(os.path.realpath(placed))
    return Path(os.path.realpath(folder)) in real.parents


def mask_url(value: str) -> str:
    """Return a URL without its password and without the values of its query."""
    scheme, mark, rest = value.partition("://")
    if not mark:
        return "(not a URL)" if re.search(r"password|passfile|@", value, re.IGNORECASE) else value
    rest, _, query = rest.partition("?")
    if "@" in rest:
        user, _, place = rest.rpartition("@")
        name, has_password, _ = user.partition(":")
        rest = f"{name}:***@{place}" if has_password else f"{name}@{place}"
    names = [part.partition("=")[0] for part in re.split("[&;]", query) if part]
    shown = "&".join(name if name not in ("schema",) else _find_part(query, name) for name in names)
    return f"{scheme}://{rest}" + (f"?{shown}" if shown else "")


def _find_part(query: str, name: str) -> str:
    return next(part for part in re.split("[&;]", query) if part.partition("=")[0] == name)
