"""`convstore new`."""

from __future__ import annotations

from typing import Any

import click

from convstore.cli.options import shared_options, window_options
from convstore.cli.options.target import open_store
from convstore.cli.render import output


@click.command(
    epilog=shared_options.example(
        "convstore new",
        'ID=$(convstore new "Olympics" --name games --system @expert.txt -m gpt-4o-mini)',
        "convstore new -o seed 7 -o tools @tools.json --meta project=atlas",
        "convstore new --max-context 8000 --compact-at 6000",
    )
)
@click.argument("title", required=False)
@click.option("--name", metavar="HANDLE", help="A short handle to call it by.")
@click.option("--id", "id_", metavar="ID", help="An id of your own choice.  [default: 12 random characters]")
@click.option("--system", metavar="TEXT|@FILE", help="A system message to begin with.")
@shared_options.parameter_options
@window_options.kept_options
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Metadata to keep with it; repeatable.")
@shared_options.json_option
@shared_options.store_options
def new(
    title: str | None,
    name: str | None,
    id_: str | None,
    system: str | None,
    meta: tuple[str, ...],
    as_json: bool,
    db: str | None,
    owner: str,
    **given: Any,
) -> None:
    """Start a conversation and print its id.

    The parameters, and how much of the history is sent, stay with the conversation; `say` may override them, and `set`
    changes them.
    """
    options = window_options.taken(given)
    parameters = shared_options.kept_parameters(**given) | options
    metadata = shared_options.metadata(meta)
    with open_store(db, owner) as store:
        conversation = store.new(
            title, system=shared_options.text_or_file(system), id=id_, name=name, metadata=metadata, **parameters
        )
    if as_json:
        from convstore.cli.render.json_forms import conversation_form

        output.write_json(conversation_form(conversation))
    else:
        output.answer(conversation.id)
