"""`convstore pin`."""

from __future__ import annotations

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render.pinned import print_pinned


@click.command(epilog=shared_options.example("convstore pin 4", "convstore pin 4 -c games"))
@click.argument("position", type=click.IntRange(min=1))
@shared_options.conversation_option
@shared_options.head_option
@shared_options.json_option
@shared_options.store_options
def pin(position: int, ref: str | None, expected_head: int | None, as_json: bool, db: str | None, owner: str) -> None:
    """Let a message be sent always, however little else is.

    POSITION is the number that `show` has before it. A tool call is pinned together with its results.
    """
    with open_store(db, owner) as store:
        conversation = store.pin(find_conversation(store, ref).id, position, expected_head=expected_head)
        print_pinned(store, conversation, position, "pinned", as_json=as_json)
