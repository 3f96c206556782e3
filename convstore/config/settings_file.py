"""Read the user's `config.toml`, and check every key of it.

::

    database = "postgresql://app@localhost/app"   # or the path of a SQLite file
    owner = "anna"
    model = "gpt-4o-mini"
    base-url = "http://localhost:8080/v1"
    prices = "~/prices.toml"
    profile = "work"                              # the profile that is used if none is named

    [profiles.work]
    base-url = "https://models.example.com/v1"
    model = "large"
    key-variable = "WORK_API_KEY"                 # or: key-command = "pass show work/key"

    [rendering]
    markdown = true
    colour = true
    editing-mode = "vi"                           # or "emacs"

    [defaults.list]                               # options of a command
    limit = 50
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from convstore.config.profile import Profile, is_http_url
from convstore.config.user_folders import find_user_folder

if TYPE_CHECKING:
    from convstore.config.toml_files import TomlFile

SETTINGS_FILE_NAME = "config.toml"
TEXT_KEYS = ("database", "owner", "model", "base-url", "prices", "profile")
PROFILE_KEYS = ("base-url", "model", "key-variable", "key-command", "key")
EDITING_MODES = ("emacs", "vi")
_TABLES = ("profiles", "rendering", "defaults")
_SOURCES_OF_KEY = ("key-variable", "key-command", "key")


@dataclass(frozen=True, slots=True)
class UserSettings:
    """What the user's file sets; empty if the file does not exist."""

    path: Path | None
    """The file; it need not exist. None: the home directory is unknown."""
    file: TomlFile | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    """The values of `TEXT_KEYS`."""
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    rendering: Mapping[str, bool | str] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The defaults of the options of each command; a command in a group is named with it, as `db verify`."""

    def get_profile(self, name: str) -> Profile:
        """Return a profile.

        Raises:
            InvalidInput: the file has no such profile.
        """
        from convstore.errors import InvalidInput

        if name in self.profiles:
            return self.profiles[name]
        known = f"the profiles are {', '.join(self.profiles)}" if self.profiles else "there are no profiles"
        raise InvalidInput(f"{self.path} has no profile '{name:.80}'; {known}")


def find_settings_file() -> Path | None:
    """Return the path of the user's `config.toml`, or None without a home directory."""
    folder = find_user_folder("user_config_dir")
    return folder / SETTINGS_FILE_NAME if folder is not None else None


def read_user_settings() -> UserSettings:
    """Return what the user's file sets. It is read again only after it has changed.

    Raises:
        InvalidInput: the file cannot be read, or has a mistake; the text names the line.
    """
    path = find_settings_file()
    if path is None:
        return UserSettings(None)
    try:
        found = os.stat(path)  # noqa: PTH116 (before each turn, and faster than `path.stat`)
    except OSError:
        if not os.path.lexists(path):
            return UserSettings(path)
        return _read(path, None)
    return _read(path, (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode))


@lru_cache(maxsize=8)
def _read(path: Path, _version: tuple[int, ...] | None) -> UserSettings:
    from convstore.config.toml_files import read_toml  # here, because most people have no such file

    file = read_toml(path)
    return check_user_settings(path, file) if file is not None else UserSettings(path)


def check_user_settings(path: Path, file: TomlFile) -> UserSettings:
    """Return the settings of a file.

    Raises:
        InvalidInput: a key is unknown, or a value has another type; the text names the line.
    """
    top = file.check_keys((), (*TEXT_KEYS, *_TABLES))
    texts = {key: _check_value(file, (key,), top[key]) for key in TEXT_KEYS if key in top}
    profiles = {}
    if "profiles" in top:
        for name in _check_table(file, ("profiles",)):
            profiles[name] = _read_profile(file, name)
    settings = UserSettings(path, file, texts, profiles, _read_rendering(file), _read_defaults(file))
    if "profile" in texts and texts["profile"] not in profiles:
        raise file.make_error(("profile",), f"there is no profile '{texts['profile']:.80}'")
    return settings


def _check_table(file: TomlFile, keys: tuple[str, ...]) -> Mapping[str, Any]:
    table: Any = file.values
    for key in keys:
        table = table[key]
    if not isinstance(table, Mapping):
        raise file.make_error(keys, f"'{'.'.join(keys)}' must be a table")
    return table


def _read_profile(file: TomlFile, name: str) -> Profile:
    keys = ("profiles", name)
    if not re.fullmatch(r"[\w-]+", name):
        raise file.make_error(keys, f"the name of a profile has letters, digits, _ and -, not '{name:.80}'")
    table = file.check_keys(keys, PROFILE_KEYS)
    texts = {key: _check_value(file, (*keys, key), value) for key, value in table.items()}
    sources = [key for key in _SOURCES_OF_KEY if key in texts]
    if len(sources) > 1:
        raise file.make_error((*keys, sources[1]), f"profile '{name}' has {' and '.join(sources)}: give one of them")
    # Who may read the file has the key; who may write it can run the command.
    if ("key" in texts and file.mode & 0o077) or (sources and not is_private(file)):
        raise file.make_error(
            (*keys, sources[0]), f"other users may read or write this file, which names a key: `chmod 600 {file.path}`"
        )
    return Profile(
        name,
        base_url=texts.get("base-url"),
        model=texts.get("model"),
        key_variable=texts.get("key-variable"),
        key_command=texts.get("key-command"),
        key=texts.get("key"),
    )


def is_private(file: TomlFile) -> bool:
    """Return True if only its owner, this user or root, may write a file."""
    return file.uid in (os.geteuid(), 0) and not file.mode & 0o022


def _read_rendering(file: TomlFile) -> dict[str, bool | str]:
    if "rendering" not in file.values:
        return {}
    table = file.check_keys(("rendering",), tuple(_RENDERING_CHECKS))
    for key, value in table.items():
        problem = _RENDERING_CHECKS[key](value)
        if problem is not None:
            raise file.make_error(("rendering", key), f"'{key}' must be {problem}, not {value!r:.80}")
    return dict(table)


def _check_switch(value: object) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _check_editing_mode(value: object) -> str | None:
    return None if value in EDITING_MODES else " or ".join(f'"{mode}"' for mode in EDITING_MODES)


_RENDERING_CHECKS: dict[str, Callable[[object], str | None]] = {
    "markdown": _check_switch,
    "colour": _check_switch,
    "editing-mode": _check_editing_mode,
}
RENDERING_KEYS: tuple[Literal["markdown", "colour", "editing-mode"], ...] = ("markdown", "colour", "editing-mode")


def _read_defaults(file: TomlFile) -> dict[str, Mapping[str, Any]]:
    """Return the defaults of commands; their options are checked when they run."""
    if "defaults" not in file.values:
        return {}
    return {name: _check_table(file, ("defaults", name)) for name in _check_table(file, ("defaults",))}


def _check_value(file: TomlFile, keys: tuple[str, ...], value: object) -> str:
    text = _check_text(file, keys, value)
    if keys[-1] == "base-url" and not is_http_url(text):
        # It is not shown, because it may hold a password.
        raise file.make_error(keys, "'base-url' must be a URL such as \"http://localhost:8080/v1\"")
    if keys[-1] == "key-variable" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise file.make_error(keys, "'key-variable' must be the name of an environment variable")
    return text


def _check_text(file: TomlFile, keys: tuple[str, ...], value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        # The value is not shown, because it may be a key.
        raise file.make_error(keys, f"'{keys[-1]}' must be a text in quotes, on one line")
    return value
