"""`convstore undo`."""

from __future__ import annotations

import sys

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render import output
from convstore.cli.render.head import first_asked, print_head


@click.command(
    epilog=shared_options.example("convstore undo", "convstore undo games -n 3", "convstore undo && convstore redo")
)
@click.argument("ref", required=False)
@click.option("-n", "count", type=click.IntRange(min=1), default=1, metavar="N", help="How many turns.  [default: 1]")
@shared_options.head_option
@shared_options.json_option
@shared_options.store_options
def undo(ref: str | None, count: int, expected_head: int | None, as_json: bool, db: str | None, owner: str) -> None:
    """Go back by a turn: what was asked last, and its answer.

    Nothing is lost: `redo` returns, and `show --tree` shows what was left. REF is the conversation's name, its id, or
    the beginning of its id; without one, it is the conversation used last.
    """
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        tells = sys.stderr.isatty() and not as_json
        page = store.messages(conversation.id, limit=2 * count) if tells else []
        conversation = store.undo(conversation.id, count, expected_head=expected_head)
        if tells:
            what = "turn" if count == 1 else f"{count} turns, from"
            output.note_on_terminal(
                f"undid {what}: {first_asked(store, conversation, page, conversation.length)}; `convstore redo` returns"
            )
        print_head(store, conversation, as_json=as_json)
