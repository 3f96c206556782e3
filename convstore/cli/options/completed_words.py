"""Complete references, models, tags, profiles and templates for the shell.

click calls these functions only while it completes a word; they import what they need when they are called, and report
no errors, because the shell would print them into the line that is being typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from convstore.db.completion_values import Kind

# What a shell takes as one word without quotes. bash inserts a value as it is, so that a name such as `$(reboot)`, from
# a file of somebody else, would be run.
_PLAIN_WORD = re.compile(r"\w[\w.@/:+-]*")
_MAX_DESCRIPTION_CHARACTERS = 60

Completer = Callable[[click.Context, click.Parameter, str], list[Any]]


def _make_completer(kind: Kind) -> Completer:
    """Return the function that completes values of a kind from the database."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            return _make_items(_read(context, kind, incomplete), incomplete)
        except Exception:
            return []

    return complete


complete_reference = _make_completer("reference")
complete_deleted = _make_completer("deleted")
complete_archived = _make_completer("archived")
complete_tag = _make_completer("tag")


def complete_model(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a model that was used, or that the user's file names."""
    try:
        from convstore.config.settings_file import read_user_settings

        user = read_user_settings()
        named = [user.texts.get("model"), *(profile.model for profile in user.profiles.values())]
        found = [(name, None) for name in named if name is not None]
        return _make_items([*_read(context, "model", incomplete), *found], incomplete)
    except Exception:
        return []


def complete_profile(_context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a profile of the user's file."""
    try:
        from convstore.config.settings_file import read_user_settings

        profiles = read_user_settings().profiles
        return _make_items([(name, profile.model) for name, profile in profiles.items()], incomplete)
    except Exception:
        return []


def complete_template(_context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a template."""
    try:
        from convstore.config.templates import list_template_names

        return _make_items([(name, None) for name in list_template_names()], incomplete)
    except Exception:
        return []


def complete_setting_key(_context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a KEY of `config set`."""
    try:
        from convstore.config.settings_file import PROFILE_KEYS, RENDERING_KEYS, TEXT_KEYS, read_user_settings

        profiles = [f"profiles.{name}.{key}" for name in read_user_settings().profiles for key in PROFILE_KEYS]
        keys = [*TEXT_KEYS, *(f"rendering.{key}" for key in RENDERING_KEYS), *profiles]
        return _make_items([(key, None) for key in keys], incomplete)
    except Exception:
        return []


def _read(context: click.Context, kind: Kind, incomplete: str) -> list[tuple[str, str | None]]:
    from convstore.config.settings import choose_database, choose_owner
    from convstore.db.completion_values import read_completed_values

    database = choose_database(context.params.get("db"), _find_project_database()).value
    owner = choose_owner(context.params.get("owner")).value or ""
    if database is None:
        return []
    found = read_completed_values(database, kind, owner, incomplete)
    # If a name is no plain word, its conversation is offered by its id.
    is_plain = _PLAIN_WORD.fullmatch
    return [
        (value.value if is_plain(value.value) or value.other is None else value.other, value.description)
        for value in found
    ]


def _find_project_database() -> Any:
    from convstore.config.project_file import read_project_settings
    from convstore.config.settings import Setting

    project = read_project_settings()
    return Setting(project.database, str(project.path)) if project is not None and project.database else None


def _make_items(found: Iterable[tuple[str, str | None]], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    items: dict[str, CompletionItem] = {}
    for value, description in found:
        if value.startswith(incomplete) and _PLAIN_WORD.fullmatch(value):
            items.setdefault(value, CompletionItem(value, help=_shorten(description)))
    return list(items.values())


def _shorten(description: str | None) -> str | None:
    """Return a description as one short line, without what drives a terminal."""
    if description is None:
        return None
    text = "".join(letter for letter in " ".join(description.split()) if letter.isprintable())
    is_long = len(text) > _MAX_DESCRIPTION_CHARACTERS
    return (f"{text[: _MAX_DESCRIPTION_CHARACTERS - 1].rstrip()}…" if is_long else text) or None
