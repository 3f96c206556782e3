"""`convstore stop`."""

from __future__ import annotations

import click

from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.output_streams import write_note


@click.command(epilog=format_examples("convstore stop", "convstore stop games"))
@ref_argument
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for the other process to end its turn; after it, this command ends the turn.",
)
@store_options
def stop(ref: str | None, wait: float, store_choice: StoreChoice) -> None:
    """Interrupt a reply in another process.

    The partial reply stays in the conversation. REF is a name, an id or the beginning of an id; the default is the
    conversation used last.
    """
    with open_store(store_choice) as store:
        conversation = find_conversation(store, ref)
        if store.stop(conversation.id, wait=wait):
            write_note(f"stopped the running turn of '{conversation.id}'; the part of its reply that came is kept")
        else:
            write_note(f"no turn of '{conversation.id}' is running")
