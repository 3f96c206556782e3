"""`convstore checkout`."""

from __future__ import annotations

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render.head import print_head


@click.command(epilog=shared_options.example("convstore checkout 12", "convstore checkout 0 -c games"))
@click.argument("seq", type=click.IntRange(min=0))
@shared_options.conversation_option
@shared_options.head_option
@shared_options.json_option
@shared_options.store_options
def checkout(seq: int, ref: str | None, expected_head: int | None, as_json: bool, db: str | None, owner: str) -> None:
    """Go to any message, on the path or off it.

    SEQ is the number that `show --tree` has first; 0 is before the first message. The conversation goes on from there.
    """
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        conversation = store.checkout(conversation.id, seq, expected_head=expected_head)
        print_head(store, conversation, as_json=as_json)
