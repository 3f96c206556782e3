"""`convstore follow`."""

from __future__ import annotations

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render import output


@click.command(epilog=shared_options.example("convstore follow", "convstore follow games"))
@click.argument("ref", required=False)
@shared_options.store_options
def follow(ref: str | None, db: str | None, owner: str) -> None:
    """Print a reply that another process is streaming.

    It is printed from its beginning, and until it ends, about half a second behind. REF is the conversation's name,
    its id, or the beginning of its id; without one, it is the conversation used last.
    """
    last = ""
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        try:
            for piece in store.follow(conversation.id):
                last = piece  # before it is printed: Ctrl-C may come at once
                output.answer(piece, newline=False)
        except SystemExit:
            output.end_line(last)
            raise
    output.end_line(last)
    if not last:
        output.note("convstore: no reply is being streamed")
