"""Decide which settings are in force.

The caller goes first, then the environment, the user's file, and the default.

The command line adds what a project file says, between the environment and the user's file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from convstore.config.database_location import expand_home, place_database
from convstore.config.settings_file import UserSettings, read_user_settings
from convstore.config.user_folders import find_user_folder
from convstore.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from convstore.config.profile import Profile

RenderingKey = Literal["markdown", "colour", "editing-mode"]
_RENDERING_DEFAULTS: dict[RenderingKey, bool | str | None] = {"markdown": True, "colour": True, "editing-mode": None}
GIVEN = "option"
DEFAULT = "default"
OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that is in force, and where it comes from."""

    value: str | None
    source: str
    """`GIVEN`, the name of an environment variable, the path of a file, or `DEFAULT`."""


@dataclass(frozen=True, slots=True)
class ModelServer:
    """The server of models that is in force, and where its key comes from."""

    base_url: str
    source: str
    """As of `Setting`."""
    profile: Profile | None
    """The profile that has the key; None: the key is `OPENAI_API_KEY`, or no key is set."""
    uses_openai_key: bool
    """Whether the key is `OPENAI_API_KEY`."""

    @property
    def is_default(self) -> bool:
        """Whether nobody named a server."""
        return self.source == DEFAULT

    @property
    def source_in_words(self) -> str:
        """Where the base URL comes from, as it is said after "the base URL"; "" if nobody named it."""
        if self.source == GIVEN:
            return "that was given"
        if self.source == DEFAULT:
            return ""
        is_file = os.sep in self.source
        return f"({os.path.basename(self.source) if is_file else self.source})"  # noqa: PTH119

    @property
    def key_source(self) -> str | None:
        """Where the key comes from, in words without the key; None: there is no key."""
        if self.profile is not None:
            return self.profile.key_source
        return "OPENAI_API_KEY" if self.uses_openai_key else None

    def read_key(self) -> str | None:
        """Return the key, or None if no key is set.

        Raises:
            NotConfigured: the profile's variable is not set, or its command failed.
        """
        if self.profile is not None:
            return self.profile.read_key()
        return _read_variable("OPENAI_API_KEY") if self.uses_openai_key else None


def find_database_url(given: str | None = None) -> str:
    """Return the database to use, as a URL or a path.

    It is `given`, else the value of `CONVSTORE_DB`, else what the user's file says, else a file in the user's data
    directory. This function creates the directory if it does not exist.

    Raises:
        DatabaseUnavailable: the user's data directory cannot be made.
        InvalidInput: the user's file has a mistake.
    """
    chosen = choose_database(given)
    if chosen.value is None:
        raise DatabaseUnavailable(
            "your home directory is unknown (HOME is not set); name a database, or set CONVSTORE_DB"
        )
    if chosen.source == DEFAULT:
        _make_folder(Path(chosen.value).parent)
    return chosen.value


def choose_database(given: str | None = None, project: Setting | None = None) -> Setting:
    """Return the database in force, or None as its value without a home directory."""
    if given is not None:
        return Setting(expand_home(given), GIVEN)
    chosen = _read_environment("CONVSTORE_DB")
    if chosen is not None:
        return Setting(expand_home(chosen.value or ""), chosen.source)
    if project is not None:
        return project
    user = read_user_settings()
    chosen = _read_text(user, "database")
    if chosen is not None and chosen.value is not None and user.path is not None:
        return Setting(place_database(chosen.value, user.path.parent), chosen.source)
    folder = find_user_folder("user_data_dir")
    return Setting(str((folder / "convstore.db").absolute()) if folder is not None else None, DEFAULT)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(
            f"the data directory {str(folder)!r} cannot be made: {error.strerror}; "
            f"name another database, or set CONVSTORE_DB"
        ) from error


def choose_owner(given: str | None = None) -> Setting:
    """Return the owner in force on the command line; "" if nothing names one."""
    if given is not None:
        return Setting(given, GIVEN)
    found = _read_environment("CONVSTORE_OWNER") or _read_text(read_user_settings(), "owner")
    return found or Setting("", DEFAULT)


def find_price_file() -> Path | None:
    """Return the path of the price file, or None if the user has none."""
    chosen = choose_price_file()
    if chosen.value is None:
        return None
    path = Path(chosen.value)
    # `exists` also where the folder may not be looked into. A file that somebody named must exist.
    return path if chosen.source != DEFAULT or os.path.exists(path) else None  # noqa: PTH110


def choose_price_file() -> Setting:
    """Return the price file in force, which need not exist.

    It is the value of `CONVSTORE_PRICES`, else what the user's file says, else `prices.toml` in the user's
    configuration directory.
    """
    chosen = _read_environment("CONVSTORE_PRICES")
    if chosen is not None:
        return chosen
    user = read_user_settings()
    chosen = _read_text(user, "prices")
    if chosen is not None and chosen.value is not None and user.path is not None:
        return Setting(place_database(chosen.value, user.path.parent), chosen.source)
    folder = find_user_folder("user_config_dir")
    return Setting(str(folder / "prices.toml") if folder is not None else None, DEFAULT)


def find_default_model(given: str | None, profile: str | None = None) -> str | None:
    """Return the default model: `given`, the environment's or the file's, else None."""
    return choose_model(given, profile).value


def choose_model(given: str | None = None, profile: str | None = None) -> Setting:
    """Return the default model in force.

    A profile that the caller or the environment names goes before `CONVSTORE_MODEL`.

    Args:
        given: a model that the caller names.
        profile: a profile that the caller names.
    """
    if given:
        return Setting(given, GIVEN)
    of_environment = _read_environment("CONVSTORE_MODEL")
    if of_environment is not None and not _is_profile_named(profile):
        return of_environment  # the file is not read: a program that needs nothing of it does not depend on it
    chosen, source = choose_profile(profile)
    from_profile = Setting(chosen.model, f"profile {chosen.name}") if chosen is not None and chosen.model else None
    if from_profile is not None and not _is_from_file(source):
        return from_profile
    found = of_environment or from_profile or _read_text(read_user_settings(), "model")
    return found or Setting(None, DEFAULT)


def choose_profile(given: str | None = None) -> tuple[Profile | None, str]:
    """Return the profile in force, and who names it; None if nobody does.

    Raises:
        InvalidInput: there is no profile of this name.
    """
    if given is not None:
        return read_user_settings().get_profile(given), GIVEN
    named = _read_environment("CONVSTORE_PROFILE")
    user = read_user_settings()
    named = named or _read_text(user, "profile")
    if named is None or named.value is None:
        return None, DEFAULT
    return user.get_profile(named.value), named.source


def _is_profile_named(given: str | None) -> bool:
    """Return True if the caller or the environment names a profile."""
    return given is not None or _read_environment("CONVSTORE_PROFILE") is not None


def _is_from_file(source: str) -> bool:
    return source not in (GIVEN, "CONVSTORE_PROFILE")


def choose_server(given: str | None = None, profile: str | None = None) -> ModelServer:
    """Return the server of models in force.

    A key goes to the server that it belongs to: the key of a profile to the profile's server, and no other key to that.

    Args:
        given: a base URL that the caller names.
        profile: a profile that the caller names.
    """
    url = (Setting(given, GIVEN) if given else None) or _read_environment("OPENAI_BASE_URL")
    has_openai_key = _read_variable("OPENAI_API_KEY") is not None
    if url is not None and url.value and not _is_profile_named(profile):
        return ModelServer(url.value, url.source, None, has_openai_key)  # the file is not read
    chosen, source = choose_profile(profile)
    is_named = chosen is not None and not _is_from_file(source)
    of_profile = Setting(chosen.base_url, f"profile {chosen.name}") if chosen is not None and chosen.base_url else None
    url = (
        (url if given else None)
        or (of_profile if is_named else None)
        or url
        or of_profile
        or _read_text(read_user_settings(), "base-url")
        or Setting(OPENAI_URL, DEFAULT)
    )
    uses_profile = chosen is not None and (
        url is of_profile
        or (is_named and chosen.key_source is not None)
        or (url.source == DEFAULT and not has_openai_key)
    )
    return ModelServer(
        url.value or OPENAI_URL, url.source, chosen if uses_profile else None, has_openai_key and not uses_profile
    )


def find_rendering(key: RenderingKey) -> bool | str | None:
    """Return a value of `[rendering]` in the user's file, else its default.

    `editing-mode` is None if the file does not set it: it is then as in `.inputrc`.
    """
    return read_user_settings().rendering.get(key, _RENDERING_DEFAULTS[key])


def _read_environment(name: str) -> Setting | None:
    value = os.environ.get(name)
    return Setting(value, name) if value else None


def _read_variable(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


def _read_text(user: UserSettings, key: str) -> Setting | None:
    return Setting(user.texts[key], str(user.path)) if key in user.texts else None
