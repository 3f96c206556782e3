"""`convstore set`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.history_options import find_window_option, stored_window_options
from convstore.cli.options.metadata_option import metadata_option
from convstore.cli.options.output_options import json_option
from convstore.cli.options.parameter_options import (
    OPTION_PARAMETERS,
    check_parameter_name,
    check_stored_parameters,
    parameter_options,
)
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import describe_conversation
from convstore.cli.render.json_forms import conversation_to_json
from convstore.cli.render.output_streams import format_json, write_json, write_terminal_note

if TYPE_CHECKING:
    from convstore.values.results import Conversation

_OTHER_UNSETTABLE = ("name", "title", "metadata")  # besides parameters and window options


@click.command(
    "set",
    context_settings={"allow_extra_args": True},  # for an error that says how to write them
    epilog=format_examples(
        "convstore set -m gpt-4o-mini --temperature 0.2",
        "convstore set --last 10 --max-context 8000",
        'convstore set 3kx9 --name games --title "Olympic games"',
        "convstore set games --unset temperature --unset title",
    ),
)
@ref_argument
@click.option("--name", metavar="HANDLE", help="New short name.")
@click.option("--title", metavar="TITLE", help="New title.")
@parameter_options
@stored_window_options
@metadata_option("Metadata to add or replace; repeatable.")
@click.option(
    "--unset",
    multiple=True,
    metavar="KEY",
    help="Parameter, window option, `name`, `title` or `metadata` to remove; repeatable.",
)
@json_option
@store_options
@click.pass_context
def set_conversation(
    context: click.Context,
    /,
    ref: str | None,
    name: str | None,
    title: str | None,
    parameters: dict[str, Any],
    window: dict[str, Any],
    metadata: dict[str, Any],
    unset: tuple[str, ...],
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Change a conversation's parameters, window, name or title.

    REF is a name, an id or the beginning of an id; the default is the conversation used last.
    """
    if context.args:
        raise _refuse_words(context, [word for word in (ref, *context.args) if word is not None])
    check_stored_parameters(parameters)
    changes = {**parameters, **window}
    changes |= {key: value for key, value in (("name", name), ("title", title)) if value is not None}
    _add_removals(changes, unset)
    if not changes and not metadata:
        if ref is not None and "=" in ref:
            raise _refuse_words(context, [ref])
        raise click.UsageError("nothing to change.")
    with open_store(store_choice) as store:
        conversation = find_conversation(store, ref)
        _check_removals(conversation, unset)
        if metadata:
            is_replaced = "metadata" in changes  # --unset metadata
            changes["metadata"] = metadata if is_replaced else {**conversation.metadata, **metadata}
        conversation = store.set(conversation.id, **changes)
    if as_json:
        write_json(conversation_to_json(conversation))
    else:
        kept = {**conversation.settings, **conversation.window}
        write_terminal_note(f"changed {describe_conversation(conversation)}: {format_json(kept)}")


def _refuse_words(context: click.Context, words: list[str]) -> click.UsageError:
    """Return the error for words that are not options, such as `temperature 0.2` or `temperature=0.2`."""
    key, equals, value = words[-1].partition("=")
    if not equals:
        key, value = words[-2:]
    flag = f"--{key.replace('_', '-')}"
    has_option = any(flag in parameter.opts for parameter in context.command.params)
    return click.UsageError(f"unexpected '{words[-1]}'; write `{flag if has_option else f'-o {key}'} {value}`.")


def _check_removals(conversation: Conversation, unset: tuple[str, ...]) -> None:
    """Check that each KEY of --unset has an option of its own, or that the conversation keeps it.

    Raises:
        click.UsageError: neither is true, so KEY is probably a mistake.
    """
    for word in unset:
        is_known = find_window_option(word) is not None or word in (*_OTHER_UNSETTABLE, *OPTION_PARAMETERS)
        if not is_known and word not in conversation.settings:
            kept = ", ".join(conversation.settings) or "none"
            raise click.UsageError(f"conversation '{conversation.id}' keeps no parameter '{word}'; it keeps: {kept}.")


def _add_removals(changes: dict[str, Any], unset: tuple[str, ...]) -> None:
    """Set each KEY of --unset to None in the changes.

    Raises:
        click.UsageError: a KEY cannot be unset, or the same command sets it.
    """
    for word in unset:
        window_option = find_window_option(word)
        if window_option is None and word not in _OTHER_UNSETTABLE:
            check_parameter_name(word)
        key = window_option or word
        if key in changes:
            raise click.UsageError(f"'{key}' is both set and unset.")
        changes[key] = None
