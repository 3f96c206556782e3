"""`convstore rate`."""

from __future__ import annotations

from typing import Literal

import click

from convstore.cli.options.conversation_option import conversation_option, find_conversation
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.json_forms import rating_to_json
from convstore.cli.render.output_streams import write_json, write_terminal_note


@click.command(
    epilog=format_examples(
        "convstore rate 4 good", 'convstore rate 4 bad --note "wrong year" -c games', "convstore rate 4 none"
    )
)
@click.argument("position", type=click.IntRange(min=1))
@click.argument("rating", metavar="good|bad|none", type=click.Choice(["good", "bad", "none"]))
@click.option("--note", metavar="TEXT", help="Reason, in your own words.")
@conversation_option
@json_option
@store_options
def rate(
    position: int,
    rating: Literal["good", "bad", "none"],
    note: str | None,
    ref: str | None,
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Rate a reply.

    POSITION is the number before the reply in `show`. `none` removes a rating. `search --rated` finds rated replies.
    """
    if rating == "none" and note is not None:
        raise click.UsageError("--note belongs to a rating: good or bad.")
    with open_store(store_choice) as store:
        conversation = find_conversation(store, ref)
        stored = store.rate(conversation.id, position, None if rating == "none" else rating, note=note)
    if as_json:
        write_json(rating_to_json(stored) if stored is not None else None)
    else:
        write_terminal_note(f"message {position} of {conversation.id}: {rating if stored is not None else 'not rated'}")
