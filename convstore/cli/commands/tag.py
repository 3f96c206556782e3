"""`convstore tag`."""

from __future__ import annotations

import click

from convstore.cli.options.completed_words import complete_reference, complete_tag
from convstore.cli.options.conversation_option import find_conversation
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import print_change


@click.command(epilog=format_examples("convstore tag games sport work", "convstore list --tag sport"))
@click.argument("ref", metavar="REF", shell_complete=complete_reference)
@click.argument("tags", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_tag)
@json_option
@store_options
def tag(ref: str, tags: tuple[str, ...], as_json: bool, store_choice: StoreChoice) -> None:
    """Add tags to a conversation.

    A tag is 1 to 64 letters, digits, ., _ or -. `tags` lists the tags that are used.
    """
    with open_store(store_choice) as store:
        conversation = store.tag(find_conversation(store, ref).id, *tags)
        print_change(conversation, f"the tags are now {', '.join(conversation.tags) or 'none'}:", as_json=as_json)
