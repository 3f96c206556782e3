"""`convstore templates`."""

from __future__ import annotations

import sys

import click

from convstore.cli.options.completed_words import complete_template
from convstore.cli.options.confirm_option import ask_to_edit_again, confirm, dry_run_option, yes_option
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.text_editor import open_editor
from convstore.cli.render.output_streams import make_one_line, write_answer, write_json, write_note, write_terminal_note
from convstore.errors import InvalidInput

_MAX_SHOWN_CHARACTERS = 60


@click.group(
    "templates",
    epilog=format_examples(
        "convstore templates edit translator",
        "convstore templates list",
        "convstore new --template translator --var language=Basque",
    ),
)
def templates() -> None:
    """Make and change templates of new conversations.

    A template is a file in the configuration directory: a system message with $variables, a model, a title, completion
    parameters, options of the window, and tools.
    """


@templates.command("list", epilog=format_examples("convstore templates list", "convstore templates list --json"))
@json_option
def list_templates(as_json: bool) -> None:
    """List the templates, their variables and the beginning of the system message."""
    from convstore.config.templates import list_template_names, read_template

    found = []
    for name in list_template_names():
        try:
            found.append(read_template(name))
        except InvalidInput as error:
            write_note(str(error))
    if as_json:
        write_json(
            [
                {"name": each.name, "file": str(each.file.path), "variables": each.variable_names, **each.texts}
                for each in found
            ]
        )
        return
    if not found:
        write_note("no templates yet; `convstore templates edit NAME` makes one")
        return
    width = max(len(each.name) for each in found)
    for each in found:
        variables = f" ({', '.join(each.variable_names)})" if each.variable_names else ""
        text = make_one_line(each.texts.get("system", ""))[:_MAX_SHOWN_CHARACTERS]
        write_answer(f"{each.name.ljust(width)}{variables}  {text}".rstrip())


@templates.command("show", epilog=format_examples("convstore templates show translator"))
@click.argument("name", shell_complete=complete_template)
def show_template(name: str) -> None:
    """Print the file of a template."""
    from convstore.config.templates import read_template

    write_answer(read_template(name).file.text, newline=False)


@templates.command("edit", epilog=format_examples("convstore templates edit translator"))
@click.argument("name", shell_complete=complete_template)
def edit_template(name: str) -> None:
    """Edit a template in $EDITOR, or make a new one.

    A text with a mistake is not stored.
    """
    from convstore.config.templates import NEW_TEMPLATE_TEXT, find_template_file, write_template

    path = find_template_file(name)
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not UTF-8; correct or remove it") from None
    text = before if before is not None else NEW_TEMPLATE_TEXT
    while True:
        changed = open_editor(text, ".toml", result="nothing was changed")
        if changed == before or (before is None and not changed.strip()):
            write_note("nothing was changed")
            return
        text = changed
        try:
            write_template(name, text)
        except InvalidInput as error:
            if not sys.stdin.isatty():
                raise
            write_note(str(error))
            ask_to_edit_again()
        else:
            write_terminal_note(f"(changed {path})")
            return


@templates.command("delete", epilog=format_examples("convstore templates delete translator --yes"))
@click.argument("name", shell_complete=complete_template)
@yes_option
@dry_run_option
def delete_template(name: str, yes: bool, dry_run: bool) -> None:
    """Remove the file of a template; conversations made from it stay as they are."""
    from convstore.config import templates as files

    path = files.find_template_file(name)
    if not path.exists():
        raise InvalidInput(f"there is no template '{name}'")
    if dry_run:
        write_answer(f"would remove {path}")
        return
    confirm(f"Remove {path} for good", yes=yes)
    files.delete_template(name)
