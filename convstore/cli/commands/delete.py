"""`convstore delete`."""

from __future__ import annotations

import click

from convstore.cli.options.conversation_option import find_or_pick, required_ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import describe_conversation
from convstore.cli.render.output_streams import write_note


@click.command(epilog=format_examples("convstore delete games", "convstore delete 3kx9"))
@required_ref_argument("REF")
@store_options
def delete(ref: str | None, store_choice: StoreChoice) -> None:
    """Delete a conversation; `restore` brings it back.

    It is no longer listed or found. Its messages stay in the database, and its forks keep theirs. REF is required: a
    name, an id or the beginning of an id.
    """
    with open_store(store_choice) as store:
        conversation = find_or_pick(store, ref)
        store.delete(conversation.id)
    write_note(f"deleted {describe_conversation(conversation)}; `convstore restore {conversation.id}` brings it back")
