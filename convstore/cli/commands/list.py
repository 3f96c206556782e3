"""`convstore list`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from convstore.cli.options.completed_words import complete_model
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.metadata_option import metadata_option
from convstore.cli.options.output_options import json_option, limit_option, pager_option
from convstore.cli.options.store_options import StoreChoice, open_finder, store_options
from convstore.cli.options.tag_option import tag_option
from convstore.cli.options.time_options import since_option, until_option
from convstore.cli.render.json_forms import listed_conversation_to_json
from convstore.cli.render.output_streams import (
    format_json,
    format_local_time,
    make_one_line,
    write_note,
    write_terminal_note,
)
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
        "convstore list olymp --since 30d --tag sport",
        "convstore list --source chatgpt --json",
        "convstore list --deleted",
    ),
)
@click.argument("text", required=False)
@tag_option
@click.option("-m", "--model", metavar="MODEL", shell_complete=complete_model, help="Model of the conversation.")
@metadata_option("Value in the metadata; repeatable.")
@click.option("--source", metavar="KIND", help="Kind of file that it was imported from, such as chatgpt.")
@since_option
@until_option
@limit_option
@click.option("--before", metavar="CURSOR", help="Next page: what the note under a page says.")
@click.option("--archived", "is_archived", is_flag=True, help="Archived conversations, which `unarchive` brings back.")
@click.option("--deleted", "is_deleted", is_flag=True, help="Deleted conversations, which `restore` brings back.")
@json_option
@pager_option
@store_options
def list_conversations(
    text: str | None,
    tags: tuple[str, ...],
    model: str | None,
    metadata: dict[str, str],
    source: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    before: str | None,
    is_archived: bool,
    is_deleted: bool,
    as_json: bool,
    uses_pager: bool,
    store_choice: StoreChoice,
) -> None:
    """List conversations, latest activity first.

    With TEXT, only those with this text in the title or the name; `search` looks into the messages. --since and --until
    are about the latest activity. Archived and deleted conversations have lists of their own.
    """
    if is_archived and is_deleted:
        raise click.UsageError("give --archived or --deleted.")
    with open_finder(store_choice) as store:
        found = store.list(
            text,
            limit=limit + 1 if limit else None,
            before=before,
            tags=tags,
            model=model,
            metadata=metadata,
            source=source,
            since=since,
            until=until,
            archived=is_archived,
            deleted=is_deleted,
            on_damaged=lambda error: write_note(str(error)),
        )
    has_more = bool(limit) and len(found) > limit
    found = found[:limit] if has_more else found
    if as_json:
        rows = ",\n".join(format_json(listed_conversation_to_json(conversation)) for conversation in found)
        sys.stdout.write(f"[{rows}]\n")
    elif not found:
        is_narrowed = any((text, tags, model, metadata, source, since, until, before))
        write_note(_describe_nothing(is_narrowed=is_narrowed, is_archived=is_archived, is_deleted=is_deleted))
    elif sys.stdout.isatty():
        with page_output(uses_pager=uses_pager):
            _print_table(found)
    else:
        _print_lines(found)
    if has_more:
        write_terminal_note(f"there are more: --before {found[-1].cursor}")


def _describe_nothing(*, is_narrowed: bool, is_archived: bool, is_deleted: bool) -> str:
    kind = "archived " if is_archived else "deleted " if is_deleted else ""
    if is_narrowed:
        return f"no such {kind}conversations"
    return f"no {kind}conversations" if kind else "no conversations yet; start one with `convstore new`"


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
    tags = [f"#{tag}" for tag in conversation.tags]
    return (
        make_one_line(conversation.id),
        str(conversation.length),
        format_local_time(conversation.updated_at),
        make_one_line(conversation.model or "-"),
        make_one_line(" · ".join(part for part in (conversation.name, conversation.title, *tags) if part)),
    )
