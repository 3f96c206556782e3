"""`convstore list`."""

from __future__ import annotations

import sys

import click

from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option, limit_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.json_forms import listed_conversation_to_json
from convstore.cli.render.output_streams import format_json, format_local_time, make_one_line, write_note

_MODEL_WIDTH = 24  # characters


@click.command(
    "list",
    epilog=format_examples("convstore list", "convstore list --limit 5 --json", "convstore list --limit 0  # all"),
)
@limit_option
@json_option
@store_options
def list_conversations(limit: int, as_json: bool, store_choice: StoreChoice) -> None:
    """List conversations, latest activity first."""
    with open_store(store_choice) as store:
        found = store.list(limit=limit or None, on_damaged=lambda error: write_note(str(error)))
    if as_json:
        rows = ",\n".join(format_json(listed_conversation_to_json(conversation)) for conversation in found)
        sys.stdout.write(f"[{rows}]\n")
        return
    if not found:
        write_note("no conversations yet; start one with `convstore new`")
        return
    id_width = max(12, *(len(conversation.id) for conversation in found))
    for conversation in found:
        columns = (
            make_one_line(conversation.id).ljust(id_width),
            f"{conversation.length:>5}",
            format_local_time(conversation.updated_at),
            make_one_line(conversation.model or "-")[:_MODEL_WIDTH].ljust(_MODEL_WIDTH),
            make_one_line(" · ".join(part for part in (conversation.name, conversation.title) if part)),
        )
        sys.stdout.write("  ".join(columns).rstrip() + "\n")
