"""`convstore db copy`."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import DatabaseChoice, StoreChoice, log_option, open_finder
from convstore.cli.render.output_streams import make_one_line, write_answer, write_json, write_note
from convstore.cli.render.progress import Progress

if TYPE_CHECKING:
    from convstore.db.database_copy import CopyReport

_COUNTED = ("conversations", "messages", "turns", "attachments")


@click.command(
    "copy",
    epilog=format_examples(
        "convstore db copy ~/.local/share/convstore/convstore.db postgresql://app@localhost/app",
        "convstore db copy 'postgresql://app@localhost/app?schema=tenant_a' tenant_a.db --no-index",
    ),
)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--no-index", is_flag=True, help="Leave the search index to `db reindex`, or to the first searches.")
@json_option
@log_option
def copy(source: str, target: str, no_index: bool, as_json: bool) -> None:
    """Copy everything of all owners to another database.

    FROM and TO are SQLAlchemy URLs or SQLite files. If the copy is stopped, the same command goes on; later, it brings
    what is new. Programs may use FROM meanwhile. TO is compared at the end, and cannot be used before.
    """
    began = time.monotonic()
    labels, report = _copy(source, target, as_json=as_json)
    copied = time.monotonic()
    indexed = None
    if not report.differences and not no_index:
        indexed = _fill_index(target, report.written["convstore_messages"], as_json=as_json)
    seconds = {"copy": round(copied - began, 1), "index": round(time.monotonic() - copied, 1)}
    if as_json:
        write_json(_report_to_json(labels, report, indexed, seconds))
    else:
        for difference in report.differences:
            write_answer(make_one_line(difference))
        if not report.differences:
            write_answer(f"{labels[0]} -> {labels[1]}: {_count_rows(report)}, equal")
    _write_notes(report, no_index=no_index)
    if report.differences:
        write_note("the copy differs, and cannot be used; run the same `convstore db copy` again")
        raise SystemExit(7)


def _copy(source: str, target: str, *, as_json: bool) -> tuple[tuple[str, str], CopyReport]:
    """Copy, and return the names of both databases without passwords, and what was done."""
    from convstore.db.database_copy import copy_database
    from convstore.db.engine import open_database

    from_database = open_database(source)
    try:
        to_database = open_database(target)
        try:
            with Progress("messages copied", as_json=as_json) as copied:
                compared: list[Progress] = []

                def show(what: str, count: int, total: int) -> None:
                    if what == "compared" and not compared:
                        compared.append(Progress("messages compared", as_json=as_json))
                    (compared[0] if compared else copied).show(count, count / max(total, 1))

                report = copy_database(from_database, to_database, show)
            return (from_database.label, to_database.label), report
        finally:
            to_database.close()
    except KeyboardInterrupt:
        write_note("the copy is unfinished; the same command goes on")
        raise
    finally:
        from_database.close()


def _fill_index(target: str, written: int, *, as_json: bool) -> int:
    """Add all messages to the search index of the copy, and return how many were added.

    Args:
        written: how many messages were copied.
    """
    added = 0
    with (
        open_finder(StoreChoice(DatabaseChoice(target, None), "")) as finder,
        Progress("messages indexed", as_json=as_json) as progress,
    ):
        try:
            for owner in finder.list_owners(unindexed=True):
                show = partial(_show_sum, progress, written, added)
                added += finder.for_owner(owner).reindex(on_progress=show)
        except KeyboardInterrupt:
            write_note("the copy is complete, its search index is not; `convstore db reindex` goes on")
            raise
    return added


def _show_sum(progress: Progress, all_messages: int, before: int, more: int) -> None:
    count = before + more
    progress.show(count, count / all_messages if count <= all_messages else None)


def _count_rows(report: CopyReport) -> str:
    parts = []
    for name in _COUNTED:
        count, written = report.rows[f"convstore_{name}"], report.written[f"convstore_{name}"]
        parts.append(f"{count:,} {name if count != 1 else name[:-1]} ({written:,} written)")
    return ", ".join(parts)


def _write_notes(report: CopyReport, *, no_index: bool) -> None:
    if report.erased:
        count = report.erased
        were = f"{count:,} conversations were" if count != 1 else "1 conversation was"
        write_note(f"{were} removed from the copy, because of what was purged or redacted in the source")
    if report.running_turns:
        count = report.running_turns
        are = f"{count:,} turns were" if count != 1 else "1 turn was"
        write_note(f"{are} running; in the copy, the next call on such a conversation marks it interrupted")
    if report.changed_meanwhile:
        count = report.changed_meanwhile
        were = f"{count:,} conversations were" if count != 1 else "1 conversation was"
        write_note(f"{were} written while the database was copied; the same command brings what is new")
    if no_index and not report.differences:
        write_note("the search index of the copy is not filled; `convstore db reindex` does it")


def _report_to_json(
    labels: tuple[str, str], report: CopyReport, indexed: int | None, seconds: dict[str, float]
) -> dict[str, Any]:
    return {
        "source": labels[0],
        "target": labels[1],
        **{name: report.rows[f"convstore_{name}"] for name in _COUNTED},
        "written": {table.removeprefix("convstore_"): count for table, count in sorted(report.written.items())},
        "erased": report.erased,
        "indexed": indexed,
        "running_turns": report.running_turns,
        "changed_meanwhile": report.changed_meanwhile,
        "differences": report.differences,
        "seconds": seconds,
    }
