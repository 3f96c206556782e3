"""`convstore restore`."""

from __future__ import annotations

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import describe, open_store
from convstore.cli.render import output


@click.command(epilog=shared_options.example("convstore restore 3kx9bfm27d5w"))
@click.argument("id_", metavar="ID")
@shared_options.json_option
@shared_options.store_options
def restore(id_: str, as_json: bool, db: str | None, owner: str) -> None:
    """Bring a deleted conversation back.

    ID is its whole id: names and beginnings of ids are of those that are not deleted.
    """
    with open_store(db, owner) as store:
        conversation = store.restore(id_)
    if as_json:
        from convstore.cli.render.json_forms import conversation_form

        output.write_json(conversation_form(conversation))
    else:
        output.note_on_terminal(f"restored {describe(conversation)}")
