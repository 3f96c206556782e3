"""`convstore import`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.json_forms import import_report_to_json
from convstore.cli.render.output_streams import write_answer, write_json, write_note
from convstore.cli.render.progress import Progress

if TYPE_CHECKING:
    from convstore.values.import_report import ImportProblem, ImportReport


@click.command(
    "import",
    epilog=format_examples(
        "convstore import chatgpt-export.zip --dry-run",
        "convstore import ~/.claude/projects",
        "convstore import ~/.claude/projects --watch",
        "convstore import ~/.codex/sessions --json",
        "convstore import conversations.jsonl --from sharegpt",
    ),
)
@click.argument("source", metavar="FILE|DIR|-")
@click.option("--from", "kind", metavar="KIND", help="Kind of the file.  [default: recognised by what is in it]")
@click.option("--dry-run", is_flag=True, help="Store nothing; say what would be done.")
@click.option(
    "--new-ids", is_flag=True, help="New id for a conversation with an id that is taken (convstore's export)."
)
@click.option("--again", is_flag=True, help="Bring in what was purged or redacted here, too.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a conversation could not be brought in.")
@click.option("--watch", is_flag=True, help="Keep bringing in what is new, until Ctrl-C.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.1, max=86_400),
    metavar="SECONDS",
    help="Pause of --watch between two looks at the files.  [default: 5]",
)
@json_option
@store_options
def import_conversations(
    source: str,
    kind: str | None,
    dry_run: bool,
    new_ids: bool,
    again: bool,
    strict: bool,
    watch: bool,
    every: float | None,
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Bring in conversations of other programs, or of an export.

    KIND is convstore, chatgpt, claude, llm, claude-code, codex, open-webui, librechat, aichat, mods, sharegpt,
    fine-tuning, messages or markdown. Importing a file again adds only what is new, as a branch where it differs. Notes
    on stderr say what could not be brought in. With --watch, each line (with --json, each object) says what one look at
    the files brought in.
    """
    if watch:
        if dry_run or strict or new_ids or again or source == "-":
            raise click.UsageError("--watch takes a file or a folder, without --dry-run, --strict, --new-ids, --again")
        _watch(Path(source), kind, every or 5.0, store_choice, as_json=as_json)
        return
    if every is not None:
        raise click.UsageError("--every is the pause of --watch; add --watch")
    given: str | IO[bytes] = sys.stdin.buffer if source == "-" else source
    try:
        with open_store(store_choice) as store, Progress("messages", as_json=as_json) as progress:
            report = store.import_(
                given, kind=kind, dry_run=dry_run, new_ids=new_ids, again=again, on_progress=progress.show
            )
    except SystemExit:  # Ctrl-C, or a signal to end
        write_note("stopped; the conversations before were stored whole. Run the command again to go on")
        raise
    _write_problems(report.problems)
    _write_report(report, is_trial=dry_run, as_json=as_json)
    if strict and any(not problem.is_note for problem in report.problems):
        raise SystemExit(1)


def _watch(source: Path, kind: str | None, every_seconds: float, choice: StoreChoice, *, as_json: bool) -> None:
    from convstore.store.import_watch import watch_source

    with open_store(choice) as store:
        for done in watch_source(store, source, kind, every_seconds):
            _write_problems(done.report.problems)
            if done.report.messages or done.report.new:
                _write_report(done.report, is_trial=False, as_json=as_json)
            if done.outage is not None:
                write_note(f"{done.outage}; trying again")


def _write_problems(problems: Iterable[ImportProblem]) -> None:
    for problem in problems:
        write_note(f"{'note: ' if problem.is_note else ''}{problem.place}: {problem.reason}")


def _write_report(report: ImportReport, *, is_trial: bool, as_json: bool) -> None:
    if as_json:
        write_json(import_report_to_json(report))
        return
    would = "would be " if is_trial else ""
    parts = [f"{report.new:,} new", f"{report.changed:,} changed", f"{report.unchanged:,} unchanged"]
    if report.deleted:
        parts.append(f"{report.deleted:,} deleted here")
    if report.erased:
        parts.append(f"{report.erased:,} left out")
    line = f"{report.kind}: conversations: {', '.join(parts)}; {report.messages:,} messages {would}added"
    if report.not_indexed:
        line += f"; {report.not_indexed:,} not in the search index yet: `convstore db reindex` adds them"
    write_answer(line)
