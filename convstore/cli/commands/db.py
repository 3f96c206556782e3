"""`convstore db`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.commands.db_copy import copy
from convstore.cli.commands.db_stats import stats
from convstore.cli.options.completed_words import complete_reference
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import (
    DatabaseChoice,
    StoreChoice,
    database_options,
    open_finder,
    open_store,
    store_options,
)
from convstore.cli.render.output_streams import make_one_line, write_answer, write_json, write_note

if TYPE_CHECKING:
    from convstore.cli.render.progress import Progress
    from convstore.db.engine import Database
    from convstore.db.schema_upgrade import SchemaState
    from convstore.db.verification_report import SearchIndexCheck, Verification


@click.group("db", epilog=format_examples("convstore db upgrade", "convstore db check --json"))
def database() -> None:
    """Inspect and upgrade the database schema.

    A SQLite file is upgraded when it is first used. A PostgreSQL database is upgraded only by `convstore db upgrade`.
    """


database.add_command(copy)
database.add_command(stats)


@contextmanager
def _open(choice: DatabaseChoice) -> Iterator[Database]:
    from convstore.db.engine import open_database

    opened = open_database(choice.locate(), choice.schema)
    try:
        yield opened
    finally:
        opened.close()


@database.command(
    epilog=format_examples(
        "convstore db upgrade --db postgresql://app@localhost/app",
        "convstore db upgrade --db postgresql://app@localhost/app --schema tenant_a",
    )
)
@json_option
@database_options
def upgrade(as_json: bool, database_choice: DatabaseChoice) -> None:
    """Upgrade the schema to this release.

    With `--schema`, the PostgreSQL schema is created if it does not exist.
    """
    from convstore.db import schema_upgrade

    with _open(database_choice) as opened:
        before = schema_upgrade.upgrade_database(opened)
        after = schema_upgrade.state(opened)
        if as_json:
            write_json({**_state_to_json(opened, after), "before": before.current})
        elif before.current == after.current:
            write_answer(f"{opened.label}: schema {after.current}, nothing to do")
        else:
            write_answer(f"{opened.label}: schema {before.current or 'none'} -> {after.current}")


@database.command(epilog=format_examples("convstore db current"))
@json_option
@database_options
def current(as_json: bool, database_choice: DatabaseChoice) -> None:
    """Print the schema of the database."""
    from convstore.db import schema_upgrade

    with _open(database_choice) as opened:
        found = schema_upgrade.state(opened)
        if as_json:
            write_json(_state_to_json(opened, found))
        else:
            write_answer(found.current or "none")


@database.command(epilog=format_examples("convstore db check && echo ready"))
@json_option
@database_options
def check(as_json: bool, database_choice: DatabaseChoice) -> None:
    """Check that this release can use the database.

    If not, the exit code is 7, and the reason is on stderr. No data are changed. Notes say if the log of a SQLite file
    is large because another program reads it, and if the folder of lock files beside it is not trusted.
    """
    from convstore.db import schema_upgrade
    from convstore.db.sqlite_erasing import list_steps_left
    from convstore.db.sqlite_log import LOG_LIMIT_BYTES, format_megabytes
    from convstore.leases.lock_folders import find_problem_beside

    with _open(database_choice) as opened:
        found = schema_upgrade.state(opened)
        log = opened.copy_log()
        problem = find_problem_beside(opened.path) if opened.path is not None else None
        left = sorted(list_steps_left(opened)) if found.usable else []
        if as_json:
            sizes = {"log_bytes": log.size, "log_held_bytes": log.held} if log is not None else {}
            locks = {"lock_folder_problem": problem} if opened.path is not None else {}
            write_json({**_state_to_json(opened, found), **sizes, **locks, "purge_left": left})
        if not found.usable:
            raise schema_upgrade.refusal(found, opened)
        if not as_json:
            write_answer(f"{opened.label}: schema {found.current}, ready")
        if log is not None and log.held > LOG_LIMIT_BYTES:
            write_note(
                f"the log has {format_megabytes(log.size)}, and {format_megabytes(log.held)} of it cannot "
                "be copied into the database while another program reads; end the programs that read it"
            )
        if left:
            write_note(f"what was purged is not overwritten yet ({', '.join(left)}): run `convstore purge --finish`")
        if problem is not None:
            write_note(
                f"{problem}, and is not used: a process that died may be noticed late; stop all programs "
                "that use the database, then remove it"
            )


@database.command(epilog=format_examples("convstore db reindex", "convstore db reindex --all"))
@click.option("--all", "is_all", is_flag=True, help="Compare the index with every conversation.")
@json_option
@database_options
def reindex(is_all: bool, as_json: bool, database_choice: DatabaseChoice) -> None:
    """Add the messages of all owners to the search index that it does not have yet.

    These are messages from before the index existed, and very long ones. You may stop it at any time; the next one goes
    on. `--all` is needed once after an older release of convstore wrote to the upgraded database.
    """
    from convstore.cli.render.progress import Progress

    added = 0
    with open_finder(StoreChoice(database_choice, "")) as finder, Progress("messages", as_json=as_json) as progress:
        for owner in finder.list_owners(unindexed=not is_all):
            show = partial(_show_sum, progress, added)
            added += finder.for_owner(owner).reindex(whole=is_all, on_progress=show)
    if as_json:
        write_json({"added": added})
    else:
        write_answer(f"{added:,} added to the search index")


def _show_sum(progress: Progress, before: int, more: int) -> None:
    progress.show(before + more)


@database.command(epilog=format_examples("convstore db verify", "convstore db verify olympics --owner user-42"))
@click.argument("reference", metavar="REF", required=False, shell_complete=complete_reference)
@click.option("--all-terms", is_flag=True, help="Compare the words of every message with the search index; slow.")
@json_option
@store_options
def verify(reference: str | None, all_terms: bool, as_json: bool, store_choice: StoreChoice) -> None:
    """Check every row for damage, also rows that no command reads, and the search index.

    Without REF, all conversations of all owners and all attachments are checked. If a row is damaged, it is listed, and
    the exit code is 7; also if the search index is not complete. Nothing is changed.
    """
    from convstore.db import schema_upgrade, verification
    from convstore.values.identifiers import ConversationKey

    shows_progress = sys.stderr.isatty() and not as_json

    def show_progress(so_far: Verification) -> None:
        if shows_progress:
            sys.stderr.write(f"\r{so_far.conversations:,} conversations, {so_far.messages:,} messages ")
            sys.stderr.flush()

    with _open(store_choice.database) as opened:
        label, state, key = opened.label, schema_upgrade.state(opened), None
        if not state.usable:
            raise schema_upgrade.refusal(state, opened)
        if reference is not None:
            with open_store(store_choice) as store:
                key = ConversationKey(store_choice.owner, store.get(reference).id)
        try:
            found = verification.verify(opened, key, show_progress, all_terms=all_terms)
        finally:
            if shows_progress:
                sys.stderr.write("\r\x1b[K")
    if as_json:
        write_json(_verification_to_json(label, found))
    else:
        for damage in found.damages:
            owner = f"owner {damage.owner!r}, " if damage.owner else ""
            of = f"{owner}conversation {damage.conversation_id!r}: " if damage.conversation_id is not None else owner
            write_answer(make_one_line(f"{of}{damage.problem}"))
        counts = ", ".join(
            f"{count:,} {name if count == 1 else name + 's'}"
            for count, name in (
                (found.conversations, "conversation"),
                (found.messages, "message"),
                (found.turns, "turn"),
            )
        )
        if not found.damages:
            write_answer(f"{label}: {counts}, no damage")
    if found.damages:
        count = len(found.damages)
        write_note(f"{count} damaged {'row' if count == 1 else 'rows'}; restore from a backup")
    _write_index_notes(found.search_index)
    if found.damages or not found.search_index.is_complete:
        raise SystemExit(7)


def _write_index_notes(found: SearchIndexCheck) -> None:
    """Write what the search index does not have, and which command mends it."""
    if found.waiting:
        write_note(f"{found.waiting:,} messages are not in the search index yet; `convstore db reindex`")
    if found.missing:
        write_note(
            f"the search index does not have {found.missing:,} messages or titles; run `convstore db reindex --all`"
        )
    problems = [
        *([f"{found.without_text:,} entries without a message or title"] if found.without_text else []),
        *([f"{found.incomplete:,} of {found.compared:,} messages without all their words"] if found.incomplete else []),
        *([found.problem] if found.problem is not None else []),
    ]
    if problems:
        write_note(
            f"the search index is damaged ({', '.join(problems)}); `convstore db copy` makes a database with a new one"
        )


@database.command(epilog=format_examples("convstore db backup monday.db"))
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@database_options
def backup(file: Path, as_json: bool, database_choice: DatabaseChoice) -> None:
    """Copy a SQLite database to a new file, also while programs use it."""
    from convstore.db import sqlite_backup

    with _open(database_choice) as opened:
        sqlite_backup.back_up(opened, file)
        if as_json:
            write_json({"database": opened.label, "backup": str(file), "bytes": file.stat().st_size})
        else:
            write_answer(f"{opened.label}: copied to {file}, {file.stat().st_size:,} bytes")


@database.command(epilog=format_examples("convstore db restore monday.db"))
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@database_options
def restore(file: Path, as_json: bool, database_choice: DatabaseChoice) -> None:
    """Replace all data of a SQLite database by those of a backup.

    Programs may go on using the database. The data before are kept in a new file beside it. A backup of an older schema
    is upgraded.
    """
    from convstore.db import sqlite_backup

    with _open(database_choice) as opened:
        kept = sqlite_backup.restore(opened, file)
        if as_json:
            write_json({"database": opened.label, "backup": str(file), "kept": str(kept) if kept is not None else None})
        else:
            write_answer(f"{opened.label}: restored from {file}")
        if kept is not None:
            write_note(f"the data before are in {kept}")


def _verification_to_json(label: str, found: Verification) -> dict[str, Any]:
    return {
        "database": label,
        "conversations": found.conversations,
        "messages": found.messages,
        "turns": found.turns,
        "attachments": found.attachments,
        "damages": [
            {"owner": damage.owner, "conversation": damage.conversation_id, "problem": damage.problem}
            for damage in found.damages
        ],
        "search_index": {**asdict(found.search_index), "complete": found.search_index.is_complete},
    }


def _state_to_json(opened: Database, found: SchemaState) -> dict[str, Any]:
    return {
        "database": opened.label,
        "current": found.current,
        "head": found.head,
        "minimum": found.minimum,
        "up_to_date": found.up_to_date,
        "usable": found.usable,
    }
