"""Find wrong defaults of commands in the user's file, before a command runs with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.command_defaults import COMMANDS_WITHOUT_DEFAULTS, read_default
from convstore.cli.options.history_options import read_window
from convstore.cli.options.parameter_options import OPTION_PARAMETERS, read_parameters
from convstore.cli.options.template_option import read_choice
from convstore.cli.options.text_input import read_text_or_file
from convstore.errors import InvalidInput

if TYPE_CHECKING:
    from convstore.config.settings_file import UserSettings


def check_all_defaults(settings: UserSettings, program: click.Group) -> None:
    """Check the defaults of all commands.

    Raises:
        InvalidInput: there is no such command, it has no such option, or it would refuse the value; the text names the
            line.
    """
    for mistake in find_mistakes(settings, program):
        raise mistake


def find_mistakes(settings: UserSettings, program: click.Group) -> Iterator[InvalidInput]:
    """Yield each mistake in the defaults of commands; its text names the line.

    Args:
        program: the group that has all commands.
    """
    if settings.file is None:
        return
    for name in settings.defaults:
        command = find_command(program, name)
        if command is None:
            yield settings.file.make_error(("defaults", name), f"there is no command '{name:.80}'")
        elif name.partition(" ")[0] in COMMANDS_WITHOUT_DEFAULTS:
            yield settings.file.make_error(("defaults", name), f"`convstore {name}` takes no defaults")
        else:
            yield from _find_mistakes_of(settings, name, command)


def _find_mistakes_of(settings: UserSettings, name: str, command: click.Command) -> Iterator[InvalidInput]:
    file = settings.file
    assert file is not None  # noqa: S101 (without a file there are no defaults)
    values: dict[str, Any] = {}
    keys: list[str] = []
    for key in settings.defaults[name]:
        try:
            option, value = read_default(settings, name, command, key)
        except InvalidInput as error:
            yield error
            continue
        if value is None or option.name is None:
            continue
        with click.Context(command) as context:
            values[option.name] = option.process_value(context, value)
        problem = _find_refusal({option.name: values[option.name]}) if option.name != "variables" else None
        if problem is None:
            keys.append(key)
        else:
            del values[option.name]
            yield file.make_error(("defaults", name, key), problem)
    problem = _find_refusal(values)  # of several together, such as temperature and top_p
    if problem is not None:
        yield file.make_error(("defaults", name, keys[-1]), f"`convstore {name}`: {problem}")


def _find_refusal(values: Mapping[str, Any]) -> str | None:
    """Return why a command would refuse values of its options, or None.

    Args:
        values: by the names of the parameters, as click converts them.
    """
    from convstore.values.completion_parameters import check_parameters
    from convstore.values.window_options import check_window_options

    checks: tuple[Callable[[], object], ...] = (
        lambda: check_parameters(
            read_parameters({key: values.get(key) for key in OPTION_PARAMETERS}, values.get("others", ()))
        ),
        lambda: check_window_options(read_window(values)),
        lambda: read_choice(values.get("template"), values.get("variables", ())),
        lambda: read_text_or_file(values.get("system") or ""),
    )
    for check in checks:
        try:
            check()
        except (InvalidInput, click.UsageError) as error:
            return (error.message if isinstance(error, click.UsageError) else str(error)).rstrip(".")
    return None


def find_command(program: click.Group, name: str) -> click.Command | None:
    """Return a command by its name with its groups, or None if it does not exist."""
    found: click.Command | None = program
    with click.Context(program) as context:
        for word in name.split(" "):
            found = found.get_command(context, word) if isinstance(found, click.Group) else None
    return found if not isinstance(found, click.Group) else None
