"""`convstore import`."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

import click

from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.json_forms import import_report_to_json
from convstore.cli.render.output_streams import write_answer, write_json, write_note
from convstore.cli.render.progress import Progress

if TYPE_CHECKING:
    from convstore.values.import_report import ImportReport


@click.command(
    "import",
    epilog=format_examples(
        "convstore import chatgpt-export.zip --dry-run",
        "convstore import ~/.claude/projects",
        "convstore import ~/.codex/sessions --json",
        "convstore import conversations.jsonl --from sharegpt",
    ),
)
@click.argument("source", metavar="FILE|DIR|-")
@click.option("--from", "kind", metavar="KIND", help="Kind of the file.  [default: recognised by what is in it]")
@click.option("--dry-run", is_flag=True, help="Store nothing; say what would be done.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a conversation could not be brought in.")
@json_option
@store_options
def import_conversations(
    source: str, kind: str | None, dry_run: bool, strict: bool, as_json: bool, store_choice: StoreChoice
) -> None:
    """Bring in conversations of other programs.

    KIND is chatgpt, claude, llm, claude-code, codex, open-webui, librechat, aichat, mods, sharegpt, fine-tuning or
    messages. Importing a file again adds only what is new, as a branch where it differs. Notes on stderr say what could
    not be brought in.
    """
    given: str | IO[bytes] = sys.stdin.buffer if source == "-" else source
    with open_store(store_choice) as store, Progress("messages", as_json=as_json) as progress:
        report = store.import_(given, kind=kind, dry_run=dry_run, on_progress=progress.show)
    for problem in report.problems:
        write_note(f"{'note: ' if problem.is_note else ''}{problem.place}: {problem.reason}")
    if as_json:
        write_json(import_report_to_json(report))
    else:
        write_answer(_describe(report, is_trial=dry_run))
    if strict and any(not problem.is_note for problem in report.problems):
        raise SystemExit(1)


def _describe(report: ImportReport, *, is_trial: bool) -> str:
    would = "would be " if is_trial else ""
    parts = [f"{report.new:,} new", f"{report.changed:,} changed", f"{report.unchanged:,} unchanged"]
    if report.deleted:
        parts.append(f"{report.deleted:,} deleted here")
    counts = ", ".join(parts)
    return f"{report.kind}: conversations: {counts}; {report.messages:,} messages {would}added"
