"""`convstore config`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from convstore.cli.options.chosen_settings import find_project, get_given_profile, profile_option
from convstore.cli.options.completed_words import complete_setting_key
from convstore.cli.options.confirm_option import ask_to_edit_again
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.text_editor import open_editor
from convstore.cli.render.output_streams import make_one_line, write_answer, write_json, write_note, write_terminal_note
from convstore.errors import InvalidInput

_MAX_COLUMN_WIDTH = 44  # characters; a longer value moves its source to the right
_INSIST = (
    "a key in a file can be read by every program that you run: set `key-variable` to the name of an environment "
    "variable, or `key-command` to a command that prints the key; --insist stores it all the same"
)


@click.group(
    "config",
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    epilog=format_examples(
        "convstore config",
        "convstore config set model gpt-4o-mini",
        "convstore config set profiles.work.base-url https://models.example.com/v1",
        "convstore config set profiles.work.key-command 'pass show work/key'",
        "convstore config edit",
    ),
)
@profile_option
@click.option("--db", metavar="URL", help="Database, instead of the one that is in force.")
@click.option("--owner", metavar="OWNER", help="Owner, instead of the one that is in force.")
@json_option
@click.pass_context
def config(context: click.Context, db: str | None, owner: str | None, as_json: bool) -> None:
    """Show the settings in force, and change them.

    Without a command, each setting is printed with its value and its source: an option, an environment variable, the
    project file, your config.toml, or the default. Keys and passwords are never printed.
    """
    if context.invoked_subcommand is not None:
        return
    from convstore.cli import convstore
    from convstore.cli.options.default_checks import check_all_defaults
    from convstore.config.settings_file import read_user_settings
    from convstore.config.settings_report import GivenSettings, list_settings, shorten_home

    user = read_user_settings()
    check_all_defaults(user, convstore)
    project = find_project()
    found = list_settings(GivenSettings(db, owner, get_given_profile()), project)
    if as_json:
        write_json(
            {
                "file": str(user.path) if user.path is not None else None,
                "file_exists": user.file is not None,
                "project_file": str(project.path) if project is not None else None,
                "settings": [{"key": key, "value": setting.value, "source": setting.source} for key, setting in found],
            }
        )
        return
    cells = [
        (key, make_one_line(shorten_home(setting.value or "-")), shorten_home(setting.source)) for key, setting in found
    ]
    widths = [min(_MAX_COLUMN_WIDTH, max(len(row[place]) for row in cells)) for place in (0, 1)]
    for key, value, source in cells:
        write_answer(f"{key.ljust(widths[0])}  {value.ljust(widths[1])}  {source}")


@config.command("set", epilog=format_examples("convstore config set model gpt-4o-mini"))
@click.argument("key", shell_complete=complete_setting_key)
@click.argument("value", required=False)
@click.option("--insist", is_flag=True, help="Store the key of a profile in the file.")
def set_value(key: str, value: str | None, insist: bool) -> None:
    """Set a value in config.toml.

    KEY is database, owner, model, base-url, prices, profile, rendering.KEY, profiles.NAME.KEY or
    defaults.COMMAND.OPTION. Without VALUE, or with -, the value is read from standard input; a key is not shown while
    it is typed.
    """
    from convstore.config.settings_writer import change_setting, parse_key, parse_value

    keys = parse_key(key)
    is_secret = keys[0] == "profiles" and keys[-1] == "key"
    if is_secret and not insist:
        raise click.UsageError(_INSIST)
    if value is None or value == "-":
        value = _read_value(key, is_secret=is_secret)
    path = _find_path()
    _check_defaults_of(keys, value)
    change_setting(path, keys, parse_value(keys, value))
    write_terminal_note(f"(changed {path})")


def _read_value(key: str, *, is_secret: bool) -> str:
    from convstore.cli.options.text_input import read_stdin

    if not sys.stdin.isatty():
        return read_stdin()
    value: str = click.prompt(key, hide_input=is_secret, err=True)
    return value


def _check_defaults_of(keys: tuple[str, ...], value: str) -> None:
    """Check a default before it is written: a wrong one would make its command fail.

    Raises:
        InvalidInput: there is no such command or option, or the value is wrong.
    """
    if keys[0] != "defaults":
        return
    import tomlkit

    from convstore.cli import convstore
    from convstore.cli.options.default_checks import check_all_defaults
    from convstore.config.settings_file import check_user_settings
    from convstore.config.settings_writer import parse_value
    from convstore.config.toml_files import parse_toml

    document: dict[str, Any] = {"defaults": {keys[1]: {keys[2]: parse_value(keys, value)}}}
    path = Path("config.toml")
    try:
        check_all_defaults(check_user_settings(path, parse_toml(path, tomlkit.dumps(document).encode())), convstore)
    except InvalidInput as error:
        raise InvalidInput(str(error).partition(": ")[2]) from None  # without the line, which is of this text alone


@config.command("unset", epilog=format_examples("convstore config unset model"))
@click.argument("key", shell_complete=complete_setting_key)
def unset(key: str) -> None:
    """Remove a value from config.toml, or a whole table; also a key that is a mistake."""
    from convstore.config.settings_writer import remove_setting, split_key

    path = _find_path()
    mistake = remove_setting(path, split_key(key))
    write_terminal_note(f"(changed {path})")
    if mistake is not None:
        write_note(f"one more mistake is left: {mistake}")


@config.command("edit", epilog=format_examples("convstore config edit", "EDITOR=nano convstore config edit"))
def edit() -> None:
    """Edit config.toml in $EDITOR; a text with a mistake is not stored."""
    from convstore.config.settings_file import check_user_settings
    from convstore.config.settings_writer import replace_settings
    from convstore.config.toml_files import parse_toml

    path = _find_path()
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not UTF-8; correct or remove it") from None
    text = before
    while True:
        changed = open_editor(text, ".toml", result="nothing was changed")
        if changed == before:
            write_note("nothing was changed")
            return
        text = changed
        try:
            _check_all(check_user_settings(path, parse_toml(path, text.encode())))
            replace_settings(path, text)
        except InvalidInput as error:
            if not sys.stdin.isatty():
                raise
            write_note(str(error))
            ask_to_edit_again()
        else:
            write_terminal_note(f"(changed {path})")
            return


def _check_all(settings: Any) -> None:
    from convstore.cli import convstore
    from convstore.cli.options.default_checks import check_all_defaults

    check_all_defaults(settings, convstore)


@config.command("path", epilog=format_examples("convstore config path"))
def path() -> None:
    """Print the path of config.toml, which need not exist."""
    write_answer(str(_find_path()))


@config.command("trust", epilog=format_examples("convstore config trust .convstore.toml"))
@click.argument("file", type=click.Path(path_type=Path))
def trust(file: Path) -> None:
    """Allow a project file, as it is now, to name any database.

    After any change of the file, it must be trusted again.
    """
    from convstore.config.database_location import mask_url
    from convstore.config.project_file import check_project_settings, find_problem
    from convstore.config.toml_files import read_toml
    from convstore.config.trusted_files import trust_file

    file = file.absolute()
    problem = find_problem(file)
    if problem is not None:
        raise InvalidInput(f"{file} is not trusted: {problem}")
    found = read_toml(file, follows_links=False)
    if found is None:
        raise InvalidInput(f"{file} does not exist")
    settings = check_project_settings(found, trusts=True)
    trust_file(file, found.text)
    write_note(f"{file} is trusted: database {mask_url(settings.database or '-')}")


def _find_path() -> Path:
    from convstore.config.settings_file import SETTINGS_FILE_NAME
    from convstore.config.user_folders import require_config_folder

    return require_config_folder() / SETTINGS_FILE_NAME
