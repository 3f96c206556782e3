"""`convstore redo`."""

from __future__ import annotations

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render.head import print_head


@click.command(epilog=shared_options.example("convstore redo", "convstore redo games"))
@click.argument("ref", required=False)
@shared_options.head_option
@shared_options.json_option
@shared_options.store_options
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
