"""`convstore checkout`."""

from __future__ import annotations

import click

from convstore.cli.options.conversation_option import conversation_option, expected_head_option, find_conversation
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import print_head


@click.command(epilog=format_examples("convstore checkout 12", "convstore checkout 0 -c games"))
@click.argument("seq", type=click.IntRange(min=0))
@conversation_option
@expected_head_option
@json_option
@store_options
def checkout(seq: int, ref: str | None, expected_head: int | None, as_json: bool, store_choice: StoreChoice) -> None:
    """Move the head to any message.

    SEQ is the first number of a line of `show --tree`; 0 is before the first message. The next message
    follows the head.
    """
    with open_store(store_choice) as store:
        conversation = store.checkout(find_conversation(store, ref).id, seq, expected_head=expected_head)
        print_head(store, conversation, as_json=as_json)
