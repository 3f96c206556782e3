"""Define --template and --var."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import click

from convstore.cli.options.completed_words import complete_template

_template_option = click.option(
    "--template",
    metavar="NAME",
    shell_complete=complete_template,
    help="Template: system message, model, parameters and tools; options go before it.",
)
_var_option = click.option(
    "--var", "variables", multiple=True, metavar="NAME=VALUE", help="Value of a template's variable; repeatable."
)


@dataclass(frozen=True, slots=True)
class TemplateChoice:
    """What a template gives a new conversation; empty without a template."""

    system: str | None = None
    title: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    window: dict[str, Any] = field(default_factory=dict)


def template_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --template and --var to a command.

    The command receives a TemplateChoice as `chosen_template`.
    """

    @wraps(command)
    def run(*, template: str | None, variables: Iterable[str], **others: Any) -> None:
        command(chosen_template=read_choice(template, variables), **others)

    return _template_option(_var_option(run))


def read_choice(name: str | None, variables: Iterable[str]) -> TemplateChoice:
    """Return what a template gives, with the values of its variables.

    Raises:
        click.UsageError: a value is given without a template, twice, or in another form.
        InvalidInput: there is no such template, it has a mistake, or a value is missing.
    """
    values: dict[str, str] = {}
    for pair in variables:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise click.UsageError(f"--var takes NAME=VALUE, not '{pair}'.")
        if key in values:
            raise click.UsageError(f"the variable '{key}' is given twice.")
        values[key] = value
    if name is None:
        if values:
            raise click.UsageError("--var needs --template.")
        return TemplateChoice()
    from convstore.cli.options.history_options import find_window_option
    from convstore.config.templates import read_template

    template = read_template(name)
    window = {}
    for key, value in template.window.items():
        option = find_window_option(key)
        if option is None:
            raise template.file.make_error(("window", key), f"unknown key '{key:.80}' of the window")
        window[option] = value
    filled = template.fill(values)
    parameters = {**({"model": filled["model"]} if "model" in filled else {}), **template.parameters}
    return TemplateChoice(filled.get("system"), filled.get("title"), parameters, window)
