"""`convstore list`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option, limit_option, pager_option
from convstore.cli.options.store_options import StoreChoice, open_finder, store_options
from convstore.cli.render.json_forms import listed_conversation_to_json
from convstore.cli.render.output_streams import format_json, format_local_time, make_one_line, write_note
from convstore.cli.render.pager import page_output
from convstore.cli.render.terminal_table import Column, get_width, print_table

if TYPE_CHECKING:
    from convstore.values.results import Conversation

_MODEL_WIDTH = 24  # characters
_MIN_ID_WIDTH = 12


@click.command(
    "list",
    epilog=format_examples(
        "convstore list",
        "convstore list --limit 5 --json",
        "convstore list --limit 0  # all",
        "convstore list --deleted",
    ),
)
@limit_option
@click.option("--deleted", "is_deleted", is_flag=True, help="Deleted conversations, which `restore` restores.")
@json_option
@pager_option
@store_options
def list_conversations(
    limit: int, is_deleted: bool, as_json: bool, uses_pager: bool, store_choice: StoreChoice
) -> None:
    """List conversations, latest activity first."""
    with open_finder(store_choice) as store:
        found = store.list(limit=limit or None, deleted=is_deleted, on_damaged=lambda error: write_note(str(error)))
    if as_json:
        rows = ",\n".join(format_json(listed_conversation_to_json(conversation)) for conversation in found)
        sys.stdout.write(f"[{rows}]\n")
    elif not found:
        write_note("no deleted conversations" if is_deleted else "no conversations yet; start one with `convstore new`")
    elif sys.stdout.isatty():
        with page_output(uses_pager=uses_pager):
            _print_table(found)
    else:
        _print_lines(found)


def _print_table(found: Sequence[Conversation]) -> None:
    """Print conversations for a person: with a header, and no wider than the terminal."""
    columns = [
        Column("ID", max_width=max(_MIN_ID_WIDTH, get_width() // 3)),  # the beginning of a long id is enough
        Column("MSGS", is_number=True),
        Column("UPDATED"),
        Column("MODEL", max_width=_MODEL_WIDTH),
        Column("NAME · TITLE"),
    ]
    print_table(columns, [_list_cells(conversation) for conversation in found])


def _print_lines(found: Sequence[Conversation]) -> None:
    """Print conversations for a program: always in the same form."""
    id_width = max(_MIN_ID_WIDTH, *(len(conversation.id) for conversation in found))
    for conversation in found:
        identity, length, updated, model, title = _list_cells(conversation)
        columns = (
            identity.ljust(id_width),
            length.rjust(5),
            updated,
            model[:_MODEL_WIDTH].ljust(_MODEL_WIDTH),
            title,
        )
        sys.stdout.write("  ".join(columns).rstrip() + "\n")


def _list_cells(conversation: Conversation) -> tuple[str, ...]:
    return (
        make_one_line(conversation.id),
        str(conversation.length),
        format_local_time(conversation.updated_at),
        make_one_line(conversation.model or "-"),
        make_one_line(" · ".join(part for part in (conversation.name, conversation.title) if part)),
    )
