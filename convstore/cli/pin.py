"""`convstore pin`."""

from __future__ import annotations

import click

from convstore.cli import style
from convstore.cli.pinned import print_pinned
from convstore.cli.target import find_conversation, open_store


@click.command(epilog=style.example("convstore pin 4", "convstore pin 4 -c games"))
@click.argument("position", type=click.IntRange(min=1))
@style.conversation_option
@style.head_option
@style.json_option
@style.store_options
def pin(position: int, ref: str | None, expected_head: int | None, as_json: bool, db: str | None, owner: str) -> None:
    """Let a message be sent always, however little else is.

    POSITION is the number that `show` has before it. A tool call is pinned together with its results.
    """
    with open_store(db, owner) as store:
        conversation = store.pin(find_conversation(store, ref).id, position, expected_head=expected_head)
        print_pinned(store, conversation, position, "pinned", as_json=as_json)
