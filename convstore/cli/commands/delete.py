"""`convstore delete`."""

from __future__ import annotations

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import describe, find_conversation, open_store
from convstore.cli.render import output


@click.command(epilog=shared_options.example("convstore delete games", "convstore delete 3kx9"))
@click.argument("ref")
@shared_options.store_options
def delete(ref: str, db: str | None, owner: str) -> None:
    """Take a conversation out of sight.

    It is neither listed nor found any more. Its rows stay: what was forked from it stays whole, and `restore` brings
    it back. REF is its name, its id, or the beginning of its id, and has to be given.
    """
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        store.delete(conversation.id)
    output.note(f"convstore: deleted {describe(conversation)}; `convstore restore {conversation.id}` brings it back")
