"""`convstore usage`."""

from __future__ import annotations

from datetime import datetime

import click

from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option, pager_option
from convstore.cli.options.store_options import StoreChoice, open_reader, store_options
from convstore.cli.options.time_options import since_option, until_option
from convstore.cli.render.json_forms import usage_to_json
from convstore.cli.render.output_streams import write_json, write_note
from convstore.cli.render.usage_table import print_usage


@click.command(
    epilog=format_examples(
        "convstore usage --since 7d --by model",
        "convstore usage --since 2026-11-01 --until 2026-12-01 --by day",
        "convstore usage games --json",
    )
)
@ref_argument
@since_option
@until_option
@click.option(
    "--by",
    type=click.Choice(["model", "day", "conversation", "owner"]),
    metavar="model|day|conversation|owner",
    help="Rows of the report; days are in UTC, and `owner` shows all owners, for administrators.  [default: the total]",
)
@json_option
@pager_option
@store_options
def usage(
    ref: str | None,
    since: datetime | None,
    until: datetime | None,
    by: str | None,
    as_json: bool,
    uses_pager: bool,
    store_choice: StoreChoice,
) -> None:
    """Show turns, tokens, cost and latency.

    REF is a name, an id or the beginning of an id. Without REF, all conversations are counted, also deleted ones.

    Prices come from the file in CONVSTORE_PRICES, else from prices.toml in your configuration directory. `?` is an
    unknown cost. `≥` means that the true cost may be higher, because some turns have no price or no token counts.
    Latency is about completed turns only. Running turns are not counted.
    """
    if by == "owner" and ref is not None:
        raise click.UsageError("give REF or --by owner, not both.")
    with open_reader(store_choice) as store:
        conversation_id = find_conversation(store, ref).id if ref is not None else None
        if by == "owner":
            report = store.usage_by_owner(since=since, until=until)
        else:
            report = store.usage(conversation_id, since=since, until=until, by=by)  # type: ignore[arg-type]  # a Choice
    if as_json:
        write_json(usage_to_json(report))
    elif report.total.turns:
        print_usage(report, uses_pager=uses_pager)
    else:
        write_note("no turns" if since is None and until is None else "no turns in this period")
