"""`convstore redo`."""

from __future__ import annotations

import click

from convstore.cli import style
from convstore.cli.standing import print_head
from convstore.cli.target import find_conversation, open_store


@click.command(epilog=style.example("convstore redo", "convstore redo games"))
@click.argument("ref", required=False)
@style.head_option
@style.json_option
@style.store_options
def redo(ref: str | None, expected_head: int | None, as_json: bool, db: str | None, owner: str) -> None:
    """Take the latest undo back.

    Not where the conversation has gone on another way since: then `checkout` goes to any message that `show --tree`
    shows. REF is the conversation's name, its id, or the beginning of its id; without one, it is the conversation used
    last.
    """
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        conversation = store.redo(conversation.id, expected_head=expected_head)
        print_head(store, conversation, as_json=as_json)
