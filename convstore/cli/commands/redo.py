"""`convstore redo`."""

from __future__ import annotations

import click

from convstore.cli.options.conversation_option import expected_head_option, find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import print_head


@click.command(epilog=format_examples("convstore redo", "convstore redo games"))
@ref_argument
@expected_head_option
@json_option
@store_options
def redo(ref: str | None, expected_head: int | None, as_json: bool, store_choice: StoreChoice) -> None:
    """Redo the turns of the latest undo.

    It is impossible if a new message was added after the undo. `checkout` can still move the head to any message of
    `show --tree`. REF is a name, an id or the beginning of an id; the default is the conversation used last.
    """
    with open_store(store_choice) as store:
        conversation = store.redo(find_conversation(store, ref).id, expected_head=expected_head)
        print_head(store, conversation, as_json=as_json)
