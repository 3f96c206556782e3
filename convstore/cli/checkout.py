"""`convstore checkout`."""

from __future__ import annotations

import click

from convstore.cli import style
from convstore.cli.standing import print_head
from convstore.cli.target import find_conversation, open_store


@click.command(epilog=style.example("convstore checkout 12", "convstore checkout 0 -c games"))
@click.argument("seq", type=click.IntRange(min=0))
@style.conversation_option
@style.head_option
@style.json_option
@style.store_options
def checkout(seq: int, ref: str | None, expected_head: int | None, as_json: bool, db: str | None, owner: str) -> None:
    """Go to any message, on the path or off it.

    SEQ is the number that `show --tree` has first; 0 is before the first message. The conversation goes on from there.
    """
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        conversation = store.checkout(conversation.id, seq, expected_head=expected_head)
        print_head(store, conversation, as_json=as_json)
