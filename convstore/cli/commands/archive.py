"""`convstore archive`."""

from __future__ import annotations

import click

from convstore.cli.options.conversation_option import find_or_pick, required_ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import print_change


@click.command(epilog=format_examples("convstore archive games", "convstore list --archived"))
@required_ref_argument("REF")
@json_option
@store_options
def archive(ref: str | None, as_json: bool, store_choice: StoreChoice) -> None:
    """Move a conversation to the archive.

    It leaves `list` and `search`, which have --archived, and is read and continued by its name or id as before.
    `unarchive` brings it back.
    """
    with open_store(store_choice) as store:
        print_change(store.archive(find_or_pick(store, ref).id), "archived", as_json=as_json)
