"""`convstore follow`."""

from __future__ import annotations

import click

from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.output_streams import end_line, write_answer, write_note


@click.command(epilog=format_examples("convstore follow", "convstore follow games"))
@ref_argument
@store_options
def follow(ref: str | None, store_choice: StoreChoice) -> None:
    """Print a reply that another process streams.

    It prints the reply from its beginning to its end, about half a second late. REF is a name, an id or the beginning
    of an id; the default is the conversation used last.
    """
    last_piece = ""
    with open_store(store_choice) as store:
        conversation = find_conversation(store, ref)
        try:
            for piece in store.follow(conversation.id):
                last_piece = piece  # before it is printed: Ctrl-C may come at once
                write_answer(piece, newline=False)
        except SystemExit:
            end_line(last_piece)
            raise
    end_line(last_piece)
    if not last_piece:
        write_note("convstore: no reply is being streamed")
