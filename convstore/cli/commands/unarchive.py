"""`convstore unarchive`."""

from __future__ import annotations

import click

from convstore.cli.options.completed_words import complete_archived
from convstore.cli.options.conversation_option import find_or_pick, required_ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import print_change


@click.command(epilog=format_examples("convstore list --archived", "convstore unarchive games"))
@required_ref_argument("REF", complete_archived)
@json_option
@store_options
def unarchive(ref: str | None, as_json: bool, store_choice: StoreChoice) -> None:
    """Move a conversation back from the archive."""
    with open_store(store_choice) as store:
        print_change(store.unarchive(find_or_pick(store, ref, archived=True).id), "unarchived", as_json=as_json)
