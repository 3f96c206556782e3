"""`convstore fork`."""

from __future__ import annotations

from typing import Any

import click

from convstore.cli.options.conversation_option import expected_head_option, find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.json_forms import conversation_to_json
from convstore.cli.render.output_streams import write_answer, write_json


@click.command(
    epilog=format_examples(
        "convstore fork", "convstore fork games --at 4 --name games-2", 'convstore say "Or so?" -c "$(convstore fork)"'
    )
)
@ref_argument
@click.option(
    "--at",
    type=click.IntRange(min=0),
    metavar="POSITION",
    help="Position of the last message to share.  [default: the head]",
)
@click.option("--name", metavar="HANDLE", help="Short name of the new conversation.")
@click.option("--id", "id_", metavar="ID", help="Id of the new conversation.  [default: 12 random characters]")
@click.option("--title", metavar="TITLE", help="Title of the new conversation.  [default: the same]")
@expected_head_option
@json_option
@store_options
def fork(
    ref: str | None,
    at: int | None,
    name: str | None,
    id_: str | None,
    title: str | None,
    expected_head: int | None,
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Fork a conversation and print the new id.

    The fork shares the messages up to a position; nothing is copied. A new message belongs to only one of the two. The
    fork starts with the same parameters, window options and pins. REF is a name, an id or the beginning of an id; the
    default is the conversation used last.
    """
    new_title: dict[str, Any] = {} if title is None else {"title": title}
    with open_store(store_choice) as store:
        conversation = find_conversation(store, ref)
        new = store.fork(conversation.id, at=at, new_id=id_, name=name, expected_head=expected_head, **new_title)
    if as_json:
        write_json(conversation_to_json(new))
    else:
        write_answer(new.id)
