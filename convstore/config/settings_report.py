"""List the settings in force and their sources, without keys and passwords."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convstore.config.database_location import mask_url
from convstore.config.settings import (
    DEFAULT,
    ModelServer,
    Setting,
    choose_database,
    choose_model,
    choose_owner,
    choose_price_file,
    choose_profile,
    choose_server,
    find_rendering,
)
from convstore.config.settings_file import RENDERING_KEYS, read_user_settings
from convstore.errors import ConvstoreError

if TYPE_CHECKING:
    from convstore.config.project_file import ProjectSettings


@dataclass(frozen=True, slots=True)
class GivenSettings:
    """What a command line gives."""

    database: str | None = None
    owner: str | None = None
    profile: str | None = None
    base_url: str | None = None


def list_settings(given: GivenSettings, project: ProjectSettings | None) -> list[tuple[str, Setting]]:
    """Return each key with its value in force, as it may be shown, and its source.

    Raises:
        InvalidInput: the user's file has a mistake, or no such profile.
    """
    found = []
    for key, read in _list_readers(given, project):
        found.append((key, read()))
    user = read_user_settings()
    for rendering in RENDERING_KEYS:
        source = str(user.path) if rendering in user.rendering else DEFAULT
        found.append((f"rendering.{rendering}", Setting(_format(find_rendering(rendering)), source)))
    for name, table in user.defaults.items():
        found += [(f"defaults.{name}.{key}", Setting(_format(value), str(user.path))) for key, value in table.items()]
    return found


def try_settings(
    given: GivenSettings, project: ProjectSettings | None
) -> Iterator[tuple[str, Setting | ConvstoreError]]:
    """Yield each key with its value in force and its source, or the error instead of them; for `convstore doctor`."""
    for key, read in _list_readers(given, project):
        try:
            yield key, read()
        except ConvstoreError as error:
            yield key, error


def _list_readers(
    given: GivenSettings, project: ProjectSettings | None
) -> tuple[tuple[str, Callable[[], Setting]], ...]:
    """Return each key with the function that returns its setting, as it may be shown."""

    def read_profile() -> Setting:
        profile, source = choose_profile(given.profile)
        return Setting(profile.name if profile is not None else None, source)

    return (
        ("database", lambda: _mask(choose_database(given.database, choose_project_database(project)))),
        ("owner", lambda: choose_owner(given.owner)),
        ("conversation", lambda: _choose_conversation(project)),
        ("profile", read_profile),
        ("model", lambda: choose_model(profile=given.profile)),
        ("base-url", lambda: _mask(choose_server(given.base_url, given.profile))),
        ("key", lambda: describe_key(given.base_url, given.profile)),
        ("prices", choose_price_file),
    )


def _mask(found: Setting | ModelServer) -> Setting:
    value = found.value if isinstance(found, Setting) else found.base_url
    return Setting(mask_url(value) if value else None, found.source)


def choose_project_database(project: ProjectSettings | None) -> Setting | None:
    """Return the database of a project file, or None."""
    return Setting(project.database, str(project.path)) if project is not None and project.database else None


def _choose_conversation(project: ProjectSettings | None) -> Setting:
    if chosen := os.environ.get("CONVSTORE_CONVERSATION"):
        return Setting(chosen, "CONVSTORE_CONVERSATION")
    if project is not None and project.conversation is not None:
        return Setting(project.conversation, str(project.path))
    return Setting(None, DEFAULT)


def describe_key(base_url: str | None, profile: str | None) -> Setting:
    """Return whether there is a key, and its source; no command is run."""
    server = choose_server(base_url, profile)
    if server.profile is None:
        return Setting("set" if server.uses_openai_key else None, server.key_source or DEFAULT)
    source = f"profile {server.profile.name}"
    variable = server.profile.key_variable
    if variable is not None:
        return Setting("set" if os.environ.get(variable, "").strip() else None, f"{source}: {variable}")
    if server.profile.key_command is not None:
        return Setting("printed by a command", source)
    return Setting("set" if server.profile.key is not None else None, source)


def _format(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)


def shorten_home(path: str) -> str:
    """Return a path with `~` for the home folder."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return path
    return f"~{path[len(home) :]}" if path == home or path.startswith(f"{home}/") else path
