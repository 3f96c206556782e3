"""`convstore title`."""

from __future__ import annotations

import click

from convstore.cli.options.completed_words import complete_model, complete_reference
from convstore.cli.options.conversation_option import find_conversation
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import print_change


@click.command(epilog=format_examples('convstore title games "Olympic games"', "convstore title games --auto"))
@click.argument("ref", metavar="REF", shell_complete=complete_reference)
@click.argument("title", metavar="[TITLE]", required=False)
@click.option("--auto", "is_auto", is_flag=True, help="Title that the model writes.")
@click.option(
    "-m", "--model", metavar="MODEL", shell_complete=complete_model, help="Model to ask.  [default: the conversation's]"
)
@json_option
@store_options
def title(
    ref: str, title: str | None, is_auto: bool, model: str | None, as_json: bool, store_choice: StoreChoice
) -> None:
    """Change a conversation's title.

    Without a title of its own, a conversation has the beginning of its first message as a title.
    """
    if is_auto == (title is not None):
        raise click.UsageError("give a TITLE, or --auto.")
    if model is not None and not is_auto:
        raise click.UsageError("--model belongs to --auto.")
    with open_store(store_choice) as store:
        id = find_conversation(store, ref).id
        conversation = store.write_title(id, model=model) if is_auto else store.set(id, title=title)
    print_change(conversation, "changed", as_json=as_json)
