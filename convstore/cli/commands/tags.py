"""`convstore tags`."""

from __future__ import annotations

import click

from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_reader, store_options
from convstore.cli.render.output_streams import write_answer, write_json, write_note


@click.command(epilog=format_examples("convstore tags", "convstore list --tag sport"))
@json_option
@store_options
def tags(as_json: bool, store_choice: StoreChoice) -> None:
    """List the tags, with their numbers of conversations."""
    with open_reader(store_choice) as store:
        counts = store.tags()
    if as_json:
        write_json([{"tag": name, "conversations": count} for name, count in counts.items()])
    elif not counts:
        write_note("no tags yet; add some with `convstore tag`")
    else:
        width = max(map(len, counts))
        for name, count in counts.items():
            write_answer(f"{name.ljust(width)}  {count:>5}")
