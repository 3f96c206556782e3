"""`convstore restore`."""

from __future__ import annotations

import click

from convstore.cli.options.completed_words import complete_deleted
from convstore.cli.options.conversation_option import pick_listed, required_ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import describe_conversation
from convstore.cli.render.json_forms import conversation_to_json
from convstore.cli.render.output_streams import write_json, write_terminal_note


@click.command(epilog=format_examples("convstore list --deleted", "convstore restore 3kx9bfm27d5w"))
@required_ref_argument("ID", complete_deleted)
@json_option
@store_options
def restore(ref: str | None, as_json: bool, store_choice: StoreChoice) -> None:
    """Restore a deleted conversation.

    ID is the complete id; `list --deleted` prints it.
    """
    with open_store(store_choice) as store:
        conversation = store.restore(ref if ref is not None else pick_listed(store, deleted=True).id)
    if as_json:
        write_json(conversation_to_json(conversation))
    else:
        write_terminal_note(f"restored {describe_conversation(conversation)}")
