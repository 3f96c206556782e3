"""`convstore fork`."""

from __future__ import annotations

from typing import Any

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render import output


@click.command(
    epilog=shared_options.example(
        "convstore fork", "convstore fork games --at 4 --name games-2", 'convstore say "Or so?" -c "$(convstore fork)"'
    )
)
@click.argument("ref", required=False)
@click.option(
    "--at", type=click.IntRange(min=0), metavar="POSITION", help="The last message to share.  [default: the last one]"
)
@click.option("--name", metavar="HANDLE", help="A short handle to call the new one by.")
@click.option("--id", "id_", metavar="ID", help="An id of your own choice.  [default: 12 random characters]")
@click.option("--title", metavar="TITLE", help="Its title.  [default: the same]")
@shared_options.head_option
@shared_options.json_option
@shared_options.store_options
def fork(
    ref: str | None,
    at: int | None,
    name: str | None,
    id_: str | None,
    title: str | None,
    expected_head: int | None,
    as_json: bool,
    db: str | None,
    owner: str,
) -> None:
    """Begin a conversation with the same past, and print its id.

    Nothing is copied, and the two go on independently. The parameters, the options of the window and what is pinned are
    the same at first. REF is the conversation's name, its id, or the beginning of its id; without one, it is the
    conversation used last.
    """
    how: dict[str, Any] = {} if title is None else {"title": title}
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        new = store.fork(conversation.id, at=at, new_id=id_, name=name, expected_head=expected_head, **how)
    if as_json:
        from convstore.cli.render.json_forms import conversation_form

        output.write_json(conversation_form(new))
    else:
        output.answer(new.id)
