"""`convstore new`."""

from __future__ import annotations

from typing import Any

import click

from convstore.cli.options.help_text import format_examples
from convstore.cli.options.history_options import stored_window_options
from convstore.cli.options.metadata_option import metadata_option
from convstore.cli.options.output_options import json_option
from convstore.cli.options.parameter_options import check_stored_parameters, parameter_options
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.options.template_option import TemplateChoice, template_options
from convstore.cli.options.text_input import read_text_or_file
from convstore.cli.render.json_forms import conversation_to_json
from convstore.cli.render.output_streams import write_answer, write_json


@click.command(
    epilog=format_examples(
        "convstore new",
        'ID=$(convstore new "Olympics" --name games --system @expert.txt -m gpt-4o-mini)',
        "convstore new -o seed 7 -o tools @tools.json --meta project=atlas",
        "convstore new --max-context 8000 --compact-at 6000",
        "convstore new --template translator --var language=Basque",
    )
)
@click.argument("title", required=False)
@click.option("--name", metavar="HANDLE", help="Short name of the conversation.")
@click.option("--id", "id_", metavar="ID", help="Id of the conversation.  [default: 12 random characters]")
@click.option("-s", "--system", metavar="TEXT|@FILE", help="System message at the beginning.")
@template_options
@parameter_options
@stored_window_options
@metadata_option("Metadata of the conversation; repeatable.")
@json_option
@store_options
def new(
    title: str | None,
    name: str | None,
    id_: str | None,
    system: str | None,
    chosen_template: TemplateChoice,
    parameters: dict[str, Any],
    window: dict[str, Any],
    metadata: dict[str, Any],
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Start a conversation and print its id.

    The conversation keeps the parameters and the window options. `say` can override them for one message; `set`
    changes them.
    """
    parameters = {**chosen_template.parameters, **parameters}
    check_stored_parameters(parameters)
    system_text = read_text_or_file(system) if system is not None else chosen_template.system
    window = {**chosen_template.window, **window}
    with open_store(store_choice) as store:
        conversation = store.new(
            title if title is not None else chosen_template.title,
            system=system_text,
            id=id_,
            name=name,
            metadata=metadata,
            **parameters,
            **window,
        )
    if as_json:
        write_json(conversation_to_json(conversation))
    else:
        write_answer(conversation.id)
