"""`convstore db stats`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import DatabaseChoice, database_options
from convstore.cli.render.output_streams import write_answer, write_json
from convstore.cli.render.terminal_table import Column, print_table

if TYPE_CHECKING:
    from datetime import datetime

    from convstore.db.database_statistics import Statistics


@click.command("stats", epilog=format_examples("convstore db stats", "convstore db stats --json"))
@json_option
@database_options
def stats(as_json: bool, database_choice: DatabaseChoice) -> None:
    """Show what the database has, how it grows, and what it takes on the disk."""
    from convstore.db.database_statistics import read_statistics
    from convstore.db.engine import open_database
    from convstore.db.schema_upgrade import refusal, state

    opened = open_database(database_choice.locate(), database_choice.schema)
    try:
        found = state(opened)
        if not found.usable:
            raise refusal(found, opened)
        statistics = read_statistics(opened)
    finally:
        opened.close()
    if as_json:
        write_json(_statistics_to_json(opened.label, statistics))
    else:
        _print(opened.label, statistics)


def _print(label: str, found: Statistics) -> None:
    living = found.conversations - found.archived - found.deleted
    write_answer(f"{label}: {_format_size(found.bytes)}")
    write_answer(
        f"conversations   {found.conversations:,}: {living:,} live, {found.archived:,} archived, "
        f"{found.deleted:,} deleted"
    )
    write_answer(f"messages        {found.messages:,}, {found.unindexed:,} of them not in the search index yet")
    write_answer(f"turns           {found.turns:,}")
    write_answer(f"owners          {found.owners:,}")
    write_answer(f"attachments     {found.attachments:,}, {_format_size(found.attachment_bytes)}")
    write_answer(f"oldest, newest  {_format_time(found.oldest)}, {_format_time(found.newest)}")
    write_answer(
        f"a day           {found.last_7_days / 7:,.1f} messages in the last 7 days, "
        f"{found.last_30_days / 30:,.1f} in the last 30, about {_format_size(_estimate_bytes_per_day(found))}"
    )
    if found.tables is None or found.search_index_bytes is None:
        write_answer("tables          unknown: this SQLite was built without dbstat")
        return
    write_answer(f"search index    {_format_size(found.search_index_bytes)}")
    write_answer("")
    print_table(
        [Column("TABLE"), Column("SIZE", is_number=True), Column("INDEXES", is_number=True)],
        [(size.name, _format_size(size.bytes), _format_size(size.index_bytes)) for size in found.tables],
    )


def _estimate_bytes_per_day(found: Statistics) -> int:
    """Return by how many bytes the database grows a day, if messages take as much as they did."""
    return round(found.bytes / found.messages * found.last_30_days / 30) if found.messages else 0


def _format_size(count: int) -> str:
    return f"{count / 1_000_000:,.1f} MB" if count >= 100_000 else f"{count / 1000:,.0f} kB"


def _format_time(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC") if moment is not None else "none"


def _statistics_to_json(label: str, found: Statistics) -> dict[str, Any]:
    values = asdict(found)
    return {
        "database": label,
        **values,
        "live": found.conversations - found.archived - found.deleted,
        "oldest": found.oldest.isoformat() if found.oldest is not None else None,
        "newest": found.newest.isoformat() if found.newest is not None else None,
        "messages_per_day": {"7": round(found.last_7_days / 7, 1), "30": round(found.last_30_days / 30, 1)},
        "bytes_per_day": _estimate_bytes_per_day(found),
        "search_index_bytes": found.search_index_bytes,
    }
