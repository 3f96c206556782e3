"""`convstore search`."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import click

from convstore.cli.options.completed_words import complete_model, complete_reference
from convstore.cli.options.conversation_option import find_conversation
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option, limit_option, pager_option
from convstore.cli.options.store_options import StoreChoice, open_finder, store_options
from convstore.cli.options.tag_option import tag_option
from convstore.cli.options.time_options import since_option, until_option
from convstore.cli.render.json_forms import search_hit_to_json
from convstore.cli.render.output_streams import format_json, format_local_time, write_note
from convstore.cli.render.pager import page_output
from convstore.cli.render.search_text import print_hits

if TYPE_CHECKING:
    from convstore.values.search_results import SearchResults

_MOST_HITS = 1_000


@click.command(
    "search",
    epilog=format_examples(
        "convstore search olympics medals",
        "convstore search '\"opening ceremony\" -2012' --role assistant",
        "convstore search 天气 --since 30d",
        "convstore search 'migrat*' -c games --json",
    ),
)
@click.argument("query", metavar="QUERY...", nargs=-1, required=True)
@click.option(
    "-c",
    "--conversation",
    "ref",
    metavar="REF",
    shell_complete=complete_reference,
    help="Search only this conversation.",
)
@click.option("--role", metavar="ROLE", help="Find only messages of this role: user, assistant, system, tool …")
@click.option(
    "-m", "--model", metavar="MODEL", shell_complete=complete_model, help="Find only messages of turns with this model."
)
@since_option
@until_option
@tag_option
@click.option("--rated", "rating", type=click.Choice(["good", "bad"]), help="Find only replies that were rated so.")
@click.option("--best", "is_best", is_flag=True, help="Most relevant hits first, not the newest.")
@click.option("--archived", "is_archived", is_flag=True, help="Search archived conversations too.")
@click.option("--deleted", "is_deleted", is_flag=True, help="Search deleted conversations too.")
@limit_option
@click.option("--before", metavar="CURSOR", help="The next page: what the note under a page says.")
@json_option
@pager_option
@store_options
def search(
    query: tuple[str, ...],
    ref: str | None,
    role: str | None,
    model: str | None,
    since: datetime | None,
    until: datetime | None,
    tags: tuple[str, ...],
    rating: Literal["good", "bad"] | None,
    is_best: bool,
    is_archived: bool,
    is_deleted: bool,
    limit: int,
    before: str | None,
    as_json: bool,
    uses_pager: bool,
    store_choice: StoreChoice,
) -> None:
    """Find messages and titles that contain every part of QUERY, newest first.

    A part is what stands between spaces. "a phrase" is one part, -word must not be in the text, and migrat* finds words
    that begin so. Everything else is literal, and case, accents and width do not matter. Put `--` before a query that
    begins with `-`.
    """
    with open_finder(store_choice) as store:
        conversation_id = find_conversation(store, ref).id if ref is not None else None
        found = store.search(
            " ".join(query),
            limit=limit or _MOST_HITS,
            before=before,
            conversation_id=conversation_id,
            role=role,
            model=model,
            since=since,
            until=until,
            tags=tags,
            rating=rating,
            best=is_best,
            archived=is_archived,
            deleted=is_deleted,
            on_damaged=lambda error: write_note(str(error)),
        )
    if as_json:
        rows = ",\n".join(format_json(search_hit_to_json(hit)) for hit in found.hits)
        sys.stdout.write(f"[{rows}]\n")
    elif found.hits:
        with page_output(uses_pager=uses_pager):
            print_hits(found.hits)
    _write_notes(found)


def _write_notes(found: SearchResults) -> None:
    """Say on stderr whether there is more, and what was not searched."""
    if found.searched_since is not None:
        reached = format_local_time(found.searched_since)
        write_note(f"searched back to {reached}" + (f"; go on with --before {found.next}" if found.next else ""))
    elif found.next is not None:
        write_note(f"there are more: --before {found.next}")
    elif not found.hits:
        write_note("nothing found")
    if not found.is_index_complete:
        write_note("some messages are not in the search index yet and may be missing; `convstore db reindex` adds them")
