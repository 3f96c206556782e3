"""`convstore export`."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

import click

from convstore.cli.options.completed_words import complete_reference
from convstore.cli.options.conversation_option import find_conversation
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_reader, store_options
from convstore.cli.render.json_forms import export_report_to_json
from convstore.cli.render.output_streams import write_json, write_note
from convstore.cli.render.progress import Progress

if TYPE_CHECKING:
    from convstore.values.export_report import ExportReport

_FORMATS = (
    *("jsonl", "markdown", "html", "openai", "sharegpt", "preferences"),
    *("csv", "csv-turns", "parquet", "parquet-turns"),
)
_BINARY_FORMATS = ("parquet", "parquet-turns")


@click.command(
    epilog=format_examples(
        "convstore export --all -o everything.jsonl",
        "convstore export games -f markdown",
        "convstore export --search olympics -f html -o olympics.html",
        "convstore export --all -f markdown -o chats/",
        "convstore export --all -f parquet -o chats.parquet",
    )
)
@click.argument("refs", metavar="[REF]...", nargs=-1, shell_complete=complete_reference)
@click.option("--all", "is_all", is_flag=True, help="All conversations, archived ones too; in jsonl, deleted ones too.")
@click.option("--search", "query", metavar="QUERY", help="Conversations that `search` finds.")
@click.option(
    "-f",
    "--format",
    "format",
    type=click.Choice(_FORMATS),
    default="jsonl",
    show_default=True,
    metavar="FORMAT",
    help="Format of the output.",
)
@click.option(
    "-o", "--output", "target", metavar="FILE|DIR/", help="File, or folder for a file each.  [default: stdout]"
)
@click.option(
    "--path/--tree", "is_path", default=None, help="The current path, or all branches.  [default: as FORMAT has it]"
)
@json_option
@store_options
def export(
    refs: tuple[str, ...],
    is_all: bool,
    query: str | None,
    format: str,
    target: str | None,
    is_path: bool | None,
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Write conversations to a file.

    Only jsonl has everything, and `import` makes equal conversations of it. FORMAT is jsonl, markdown, html, openai,
    sharegpt, preferences, csv, csv-turns, parquet or parquet-turns. Without REF, the conversation used last is written.
    """
    if sum((bool(refs), is_all, query is not None)) > 1:
        raise click.UsageError("give REF, --all or --search.")
    if format == "jsonl" and is_path is not None:
        raise click.UsageError("jsonl always has all branches: give it without --path and --tree.")
    if target == "":
        raise click.UsageError("--output is empty: name a file or a folder.")
    target = None if target == "-" else target
    if target is None and as_json:
        raise click.UsageError("--json reports what was written: it needs --output.")
    if target is None and format in _BINARY_FORMATS and sys.stdout.isatty():
        raise click.UsageError("parquet is not for a terminal: give --output.")
    given: str | IO[bytes] = target if target is not None else sys.stdout.buffer
    with open_reader(store_choice) as store, Progress("messages", as_json=as_json) as progress:
        ids = [find_conversation(store, ref).id for ref in refs]
        if not (ids or is_all or query is not None):
            ids = [find_conversation(store, None).id]
        report = store.export(
            given,
            *ids,
            query=query,
            format=format,
            tree=not is_path if is_path is not None else None,
            on_progress=progress.show if target is not None else None,
        )
    for problem in report.problems:
        write_note(f"{'note: ' if problem.is_note else ''}{problem.conversation}: {problem.reason}")
    if as_json:
        write_json(export_report_to_json(report))
    elif target is not None:
        write_note(_describe(report, target))
    if any(not problem.is_note for problem in report.problems):
        raise SystemExit(7)


def _describe(report: ExportReport, target: str) -> str:
    where = target if len(report.files) < 2 else f"{len(report.files):,} files in {target}"
    return f"{report.conversations:,} conversation(s), {report.messages:,} message(s) -> {where}"
