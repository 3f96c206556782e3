"""`convstore list`."""

from __future__ import annotations

import sys

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import open_store
from convstore.cli.render import output

_MODEL_WIDTH = 24


@click.command(
    "list",
    epilog=shared_options.example(
        "convstore list", "convstore list --limit 5 --json", "convstore list --limit 0  # all"
    ),
)
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, metavar="N", help="How many; 0 for all."
)
@shared_options.json_option
@shared_options.store_options
def list_conversations(limit: int, as_json: bool, db: str | None, owner: str) -> None:
    """List conversations, latest activity first."""
    with open_store(db, owner) as store:
        found = store.list(limit=limit or None)
    if as_json:
        from convstore.cli.render.json_forms import summary_form

        rows = ",\n".join(output.json_text(summary_form(conversation)) for conversation in found)
        sys.stdout.write(f"[{rows}]\n")
        return
    if not found:
        output.note("no conversations yet; begin one with `convstore new`")
        return
    id_width = max(12, *(len(conversation.id) for conversation in found))
    for conversation in found:
        columns = (
            output.one_line(conversation.id).ljust(id_width),
            f"{conversation.length:>5}",
            output.local_time(conversation.updated_at),
            output.one_line(conversation.model or "-")[:_MODEL_WIDTH].ljust(_MODEL_WIDTH),
            output.one_line(" · ".join(part for part in (conversation.name, conversation.title) if part)),
        )
        sys.stdout.write("  ".join(columns).rstrip() + "\n")
