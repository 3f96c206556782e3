"""Find the database, owner, conversation and profile that a command works with.

An option goes before the environment, that before the project file, and that before the user's file: see
`convstore.config.settings`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.completed_words import complete_profile
from convstore.cli.render.output_streams import write_note, write_terminal_note

if TYPE_CHECKING:
    from convstore.config.project_file import ProjectSettings

_PROJECT = "convstore.project"
_PROFILE = "convstore.profile"
_GIVEN_DATABASE = "convstore.given_database"
_IS_NAMED = "convstore.is_database_named"


def _keep_profile(context: click.Context, _option: click.Parameter, value: str | None) -> None:
    context.meta[_PROFILE] = value


profile_option = click.option(
    "--profile",
    metavar="NAME",
    expose_value=False,
    callback=_keep_profile,
    shell_complete=complete_profile,
    help="Profile of config.toml: server, key and model.  [default: CONVSTORE_PROFILE, else as in config.toml]",
)


def get_given_profile() -> str | None:
    """Return the profile that the command line names, or None."""
    context = click.get_current_context(silent=True)
    return context.meta.get(_PROFILE) if context is not None else None


def find_owner(given: str | None) -> str:
    """Return the owner of the conversations: `given`, else the one in force."""
    from convstore.config.settings import choose_owner

    return choose_owner(given).value or ""


def locate_database(given: str | None) -> str:
    """Return the database as a URL or a path: `given`, else the one in force.

    If a project file sets it, a note on stderr names both.

    Raises:
        InvalidInput: a file with settings has a mistake, or names a database that needs the user's trust.
        DatabaseUnavailable: the user's data directory cannot be made.
    """
    from convstore.config.settings import find_database_url

    meta = _get_meta()
    meta[_GIVEN_DATABASE] = given
    if given is not None or os.environ.get("CONVSTORE_DB"):
        return find_database_url(given)
    project = find_project()
    if project is None or project.database is None:
        return find_database_url(None)
    if not meta.get(_IS_NAMED):
        from convstore.config.database_location import mask_url

        meta[_IS_NAMED] = True
        write_note(f"database {mask_url(project.database)} (from {project.path})")
    return project.database


def find_chosen_conversation() -> str | None:
    """Return the conversation of CONVSTORE_CONVERSATION or the project file, or None.

    The project file's own is not used in another database than the one that it names.
    """
    chosen = os.environ.get("CONVSTORE_CONVERSATION")
    if chosen:
        return chosen
    project = find_project()
    if project is None:
        return None
    is_elsewhere = _get_meta().get(_GIVEN_DATABASE) is not None or bool(os.environ.get("CONVSTORE_DB"))
    if project.conversation is None or (project.database is not None and is_elsewhere):
        return None
    write_terminal_note(f"(conversation {project.conversation}, from {project.path})")
    return project.conversation


def find_project() -> ProjectSettings | None:
    """Return what the project file of the working folder sets.

    It is read once for a command.

    A note on stderr says if it is not read, and why.
    """
    from convstore.config.project_file import read_project_settings

    meta = _get_meta()
    if _PROJECT not in meta:
        found = read_project_settings()
        if found is not None and found.problem is not None:
            write_note(f"{found.path} is not read: {found.problem}")
        meta[_PROJECT] = found
    project: ProjectSettings | None = meta[_PROJECT]
    return project


def _get_meta() -> dict[str, Any]:
    context = click.get_current_context(silent=True)
    return context.meta if context is not None else {}
