"""Take the defaults of options from the user's file.

An example is `[defaults.list]` with `limit = 50`.

They count as if they were typed, but the options of the command line and the environment go before them. The file is
read when the first option of a command needs a default: never for `--help`, `--version` and completion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convstore.cli.usage_texts import describe_bad_value

if TYPE_CHECKING:
    from convstore.config.settings_file import UserSettings

_SETTINGS = {
    "db": "database",
    "owner": "owner",
    "profile": "profile",
    "base-url": "base-url",
}
"""Options that are settings of all commands, and their keys."""
_WITHOUT_DEFAULTS = ("help", "_click_default_help", "version")
COMMANDS_WITHOUT_DEFAULTS = ("completion", "config", "doctor")
"""Commands that must work while the file has a mistake."""


class CommandDefaults(dict[str, Any]):
    """Tell click the default of an option: commands by name, and the options of each.

    Args:
        path: the command, in the groups that it is in; empty for the program.
    """

    def __init__(self, path: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._path = path
        self._values: dict[str, Any] | None = None

    def get(self, key: str, default: Any = None) -> Any:
        context = click.get_current_context(silent=True)
        if context is None or context.resilient_parsing:  # while help is written, or a word is completed
            return default
        if isinstance(context.command, click.Group):
            return CommandDefaults((*self._path, key)) if key in context.command.list_commands(context) else default
        if not self._path or self._path[0] in COMMANDS_WITHOUT_DEFAULTS or key in _WITHOUT_DEFAULTS:
            return default
        if self._values is None:
            from convstore.config.settings_file import read_user_settings

            self._values = read_defaults(read_user_settings(), " ".join(self._path), context.command)
        return self._values.get(key, default)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def __getitem__(self, key: str) -> Any:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found


def read_defaults(settings: UserSettings, name: str, command: click.Command) -> dict[str, Any]:
    """Return the defaults of a command, by the names of its parameters, as click takes them.

    Args:
        name: the command, with the groups that it is in: `db verify`.

    Raises:
        InvalidInput: the command has no such option, or does not take the value; the text names the line.
    """
    found = {}
    for key in settings.defaults.get(name, {}):
        option, value = read_default(settings, name, command, key)
        if value is not None and option.name is not None:
            found[option.name] = value
    return found


def read_default(settings: UserSettings, name: str, command: click.Command, key: str) -> tuple[click.Option, Any]:
    """Return an option of a command and its default, as click takes it; None: as without a default.

    Args:
        key: the option in the file, without dashes.

    Raises:
        InvalidInput: as `read_defaults`.
    """
    file = settings.file
    assert file is not None  # noqa: S101 (without a file there are no defaults)
    options = _list_options(command)
    value, place = settings.defaults[name][key], ("defaults", name, key)
    if key in _SETTINGS and key in options:
        raise file.make_error(place, f"'{key}' is no default of a command: set '{_SETTINGS[key]}' itself")
    if key not in options or key in _WITHOUT_DEFAULTS:
        from convstore.config.toml_files import describe_unknown_key

        known = tuple(sorted(set(options) - set(_SETTINGS) - set(_WITHOUT_DEFAULTS)))
        raise file.make_error(place, f"`convstore {name}`: {describe_unknown_key(key, known)}")
    problem, converted = _convert(options[key], value)
    problem = problem or (_find_problem(command, options[key], converted) if converted is not None else None)
    if problem is not None:
        raise file.make_error(place, f"'{key}' must be {problem}, not {value!r:.80}")
    return options[key], converted


def _list_options(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command by their names without dashes."""
    options = {
        flag.removeprefix("--"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for flag in parameter.opts
        if flag.startswith("--") or parameter.opts == [flag]
    }
    return {key.removeprefix("-"): option for key, option in options.items()}


def _convert(option: click.Option, value: Any) -> tuple[str | None, Any]:
    """Return what is wrong with the form of a value or None, and the value as click takes it."""
    if option.is_flag:
        if not isinstance(value, bool):
            return "true or false", None
        if option.secondary_opts:  # --history and --no-history
            return None, value
        given = option.flag_value if isinstance(option.flag_value, (bool, str)) else True  # some clicks have no value
        return None, given if value else None
    if option.multiple:
        entries = value if isinstance(value, list) else [value]
        if option.nargs == 1:
            return _check_plain(entries), [str(entry) for entry in entries]
        pairs = [entry if isinstance(entry, list) else [entry] for entry in entries]
        if any(len(pair) != option.nargs for pair in pairs):
            return f"a list of lists of {option.nargs} values", None
        return _check_plain([entry for pair in pairs for entry in pair]), [tuple(map(str, pair)) for pair in pairs]
    problem = _check_plain([value])
    return problem, None if problem else value if option.count else str(value)


def _check_plain(values: list[Any]) -> str | None:
    is_plain = all(isinstance(value, (str, int, float)) and not isinstance(value, bool) for value in values)
    return None if is_plain else "a text or a number"


def _find_problem(command: click.Command, option: click.Option, value: Any) -> str | None:
    """Return what an option takes instead of a value, or None: its type and its callback are asked."""
    try:
        with click.Context(command) as context:
            option.process_value(context, value)
    except click.UsageError as error:
        return f"what `{option.opts[-1]}` takes ({describe_bad_value(error.message)})"
    return None
