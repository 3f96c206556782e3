"""`convstore restore`."""

from __future__ import annotations

import click

from convstore.cli.options.completed_words import complete_deleted
from convstore.cli.options.conversation_option import find_deleted, required_ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import describe_conversation
from convstore.cli.render.json_forms import conversation_to_json
from convstore.cli.render.output_streams import write_json, write_terminal_note


@click.command(epilog=format_examples("convstore restore games", "convstore list --deleted"))
@required_ref_argument("REF", complete_deleted)
@json_option
@store_options
def restore(ref: str | None, as_json: bool, store_choice: StoreChoice) -> None:
    """Restore a deleted conversation.

    REF is its id, the beginning of its id, or its name if no other deleted conversation has it.
    """
    with open_store(store_choice) as store:
        conversation = store.restore(find_deleted(store, ref).id)
    if as_json:
        write_json(conversation_to_json(conversation))
    else:
        write_terminal_note(f"restored {describe_conversation(conversation)}")
