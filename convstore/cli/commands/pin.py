"""`convstore pin`."""

from __future__ import annotations

import click

from convstore.cli.options.conversation_option import conversation_option, expected_head_option, find_conversation
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import print_pin


@click.command(epilog=format_examples("convstore pin 4", "convstore pin 4 -c games"))
@click.argument("position", type=click.IntRange(min=1))
@conversation_option
@expected_head_option
@json_option
@store_options
def pin(position: int, ref: str | None, expected_head: int | None, as_json: bool, store_choice: StoreChoice) -> None:
    """Always send a message.

    POSITION is the number before the message in `show`. A tool call is pinned together with its results.
    """
    with open_store(store_choice) as store:
        conversation = store.pin(find_conversation(store, ref).id, position, expected_head=expected_head)
        print_pin(store, conversation, position, "pinned", as_json=as_json)
