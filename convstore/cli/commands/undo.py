"""`convstore undo`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from convstore.cli.options.conversation_option import expected_head_option, find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import find_first_undone, print_head
from convstore.cli.render.output_streams import write_terminal_note
from convstore.errors import AmbiguousReference, ConversationNotFound

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Conversation

_MAX_COUNT_DIGITS = 3  # a longer number is the beginning of an id rather than a count


@click.command(
    epilog=format_examples("convstore undo", "convstore undo games -n 3", "convstore undo && convstore redo")
)
@ref_argument
@click.option("-n", "count", type=click.IntRange(min=1), default=1, metavar="N", help="Number of turns.  [default: 1]")
@expected_head_option
@json_option
@store_options
def undo(ref: str | None, count: int, expected_head: int | None, as_json: bool, store_choice: StoreChoice) -> None:
    """Undo the last turn: message and reply.

    Both are kept: `redo` restores them, and `show --tree` shows them. REF is a name, an id or the beginning of an id;
    the default is the conversation used last.
    """
    with open_store(store_choice) as store:
        conversation = _find_conversation(store, ref)
        tells_person = sys.stderr.isatty() and not as_json
        page = store.messages(conversation.id, limit=2 * count) if tells_person else []
        conversation = store.undo(conversation.id, count, expected_head=expected_head)
        if tells_person:
            turns = "1 turn" if count == 1 else f"{count} turns"
            first = find_first_undone(store, conversation, page)
            write_terminal_note(f'undid {turns}, from "{first}"; `convstore redo` redoes them')
        print_head(store, conversation, as_json=as_json)


def _find_conversation(store: Store, ref: str | None) -> Conversation:
    """Return the conversation that REF names. A small number is its whole id or name, and not the beginning of an id.

    Otherwise `undo 2` would undo a turn of a conversation that the user did not think of.

    Raises:
        click.UsageError: REF is a small number, and no conversation has this id or name.
    """
    if ref is None or not ref.isdecimal() or len(ref) > _MAX_COUNT_DIGITS:
        return find_conversation(store, ref)
    try:
        conversation = find_conversation(store, ref)
    except (ConversationNotFound, AmbiguousReference):
        conversation = None
    if conversation is None or ref not in (conversation.id, conversation.name):
        raise click.UsageError(
            f"no conversation has the id or the name '{ref}'; `convstore undo -n {ref}` undoes that many turns."
        )
    return conversation
