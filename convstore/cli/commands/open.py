"""`convstore open`."""

from __future__ import annotations

import click

from convstore.cli.options.chosen_settings import find_chosen_conversation
from convstore.cli.options.conversation_option import find_conversation, pick_listed, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_picker import can_pick
from convstore.cli.render.json_forms import conversation_to_json
from convstore.cli.render.output_streams import write_answer, write_json, write_note


@click.command(
    "open",
    epilog=format_examples("convstore open", "convstore open games", "convstore show $(convstore open)"),
)
@ref_argument
@json_option
@store_options
def open_conversation(ref: str | None, as_json: bool, store_choice: StoreChoice) -> None:
    """Choose a conversation, print its id, and use it from now on.

    Without REF, the latest conversations are listed on the terminal: type to filter them by id, name, title or tag, and
    see the last messages of the marked one. Commands without REF then use the one that was chosen.
    """
    if ref is None and not can_pick():
        raise click.UsageError("REF is missing, and there is no terminal to choose on.")
    with open_store(store_choice) as store:
        chosen = find_conversation(store, ref) if ref is not None else pick_listed(store)
        chosen = store.set(chosen.id)  # changes nothing but the time of the latest activity
    if (named := find_chosen_conversation()) is not None and named not in (chosen.id, chosen.name):
        write_note(f"commands without REF still use '{named}' here, see `convstore config`")
    if as_json:
        write_json(conversation_to_json(chosen))
    else:
        write_answer(chosen.id)
