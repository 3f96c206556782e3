"""`convstore stop`."""

from __future__ import annotations

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render import output


@click.command(epilog=shared_options.example("convstore stop", "convstore stop games"))
@click.argument("ref", required=False)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the turn's process has to end it, before the conversation is taken from it.",
)
@shared_options.store_options
def stop(ref: str | None, wait: float, db: str | None, owner: str) -> None:
    """End a reply that another process is getting.

    The text that came stays in the conversation. REF is the conversation's name, its id, or the beginning of its id;
    without one, it is the conversation used last.
    """
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        if store.stop(conversation.id, wait=wait):
            output.note(f"convstore: stopped the running turn of {conversation.id}; what came is kept")
        else:
            output.note(f"convstore: no turn of {conversation.id} is running")
