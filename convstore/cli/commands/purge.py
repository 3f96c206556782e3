"""`convstore purge`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convstore.cli.options.age_option import read_age
from convstore.cli.options.completed_words import complete_reference
from convstore.cli.options.confirm_option import confirm, dry_run_option, yes_option
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.conversation_text import describe_conversation
from convstore.cli.render.output_streams import write_answer, write_terminal_note
from convstore.cli.render.progress import Progress
from convstore.cli.render.purge_output import (
    Purged,
    describe_receipt,
    exit_if_unfinished,
    open_receipt_file,
    print_receipts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convstore.store.store import Store
    from convstore.values.purge_receipt import PurgeReceipt
    from convstore.values.results import Conversation


@click.command(
    epilog=format_examples(
        "convstore purge games --dry-run",
        "convstore purge games 3kx9 --yes -o receipt.json",
        "convstore purge --older-than 90d --deleted --yes",
        "convstore purge --owner user-42",
        "convstore purge --finish",
    )
)
@click.argument("refs", metavar="REF...", nargs=-1, shell_complete=complete_reference)
@click.option("--older-than", "age", callback=read_age, metavar="TIME", help="Those not changed for so long (90d).")
@click.option("--deleted", is_flag=True, help="With --older-than: only those that were deleted so long ago.")
@click.option("--finish", is_flag=True, help="Overwrite in the file what earlier purges removed.")
@click.option("--keep-digests", is_flag=True, help="Put a digest into each receipt; it lets somebody test a guess.")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="File for the receipts, as JSON.")
@yes_option
@dry_run_option
@json_option
@store_options
def purge(
    refs: tuple[str, ...],
    age: timedelta | None,
    deleted: bool,
    finish: bool,
    keep_digests: bool,
    target: Path | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Remove conversations for good.

    REF is a name, an id or the beginning of an id; of a deleted conversation, its whole id. Without REF and
    --older-than, `--owner OWNER` removes everything of that owner. Forks keep what they share. The receipt on stdout
    has counts, ids and times, and no text. The exit code is 5 if a turn is running, or if another process uses the
    SQLite file, so that what was removed is not overwritten yet: then --finish does it later.
    """
    whole_owner = _is_owner_named() and not refs and age is None and not finish
    if sum((bool(refs), age is not None, finish, whole_owner)) != 1:
        raise click.UsageError("give REF, --older-than, --finish, or --owner alone for everything of that owner.")
    if deleted and age is None:
        raise click.UsageError("--deleted needs --older-than.")
    if target == Path("-"):
        raise click.UsageError("-o takes a file; --json prints the receipts to stdout.")
    if age == timedelta() and not deleted:
        raise click.UsageError(
            "--older-than 0 would purge all conversations: give a time, or --deleted to empty the trash; "
            "`--owner OWNER` alone removes everything of an owner."
        )
    with open_store(store_choice) as store:
        if finish:
            _finish(store, as_json=as_json)
            return
        ids = _find_ids(store, refs)
        before = datetime.now(UTC) - age if age is not None else None
        planned = _plan(store, ids, before, deleted=deleted) if dry_run or not yes else Purged([])
        if dry_run:
            with open_receipt_file(target) as file:
                print_receipts(replace(planned, is_trial=True), as_json=as_json, file=file)
            exit_if_unfinished(planned)
            return
        if not yes:
            _ask(store, planned.receipts, store.owner if whole_owner else None)
            if before is not None:
                ids = [one.conversation_id for one in planned.receipts]
        older = _Older(before, None if yes else ids, deleted) if before is not None else None
        with open_receipt_file(target) as file:  # before anything is removed: it may not be writable
            done = _purge(store, ids, older, keep_digests=keep_digests, as_json=as_json)
            print_receipts(done, as_json=as_json, file=file)
    exit_if_unfinished(done)


@dataclass(frozen=True, slots=True)
class _Older:
    """Which conversations --older-than purges."""

    before: datetime
    ids: list[str] | None
    """Those that were confirmed; None: all."""
    deleted: bool


def _is_owner_named() -> bool:
    """Return True if --owner was typed; an owner of the environment must not be enough to remove all of it."""
    source = click.get_current_context().get_parameter_source("owner")
    return source is click.core.ParameterSource.COMMANDLINE


def _find_ids(store: Store, refs: tuple[str, ...]) -> list[str]:
    """Return the ids of the conversations, forks before their origins."""
    origins: dict[str, str | None] = {}
    for ref in refs:
        found = _find(store, ref)
        origins[found.id] = found.forked_from

    def count_origins(id: str | None) -> int:
        return 1 + count_origins(origins[id]) if id in origins else 0

    return sorted(origins, key=count_origins, reverse=True)


def _find(store: Store, ref: str) -> Conversation:
    """Return the conversation that REF names; a deleted one only by its whole id, because nobody sees it."""
    from convstore.errors import ConversationDeleted

    try:
        return store.get(ref)
    except ConversationDeleted:
        return store.get(ref, deleted=True)


def _plan(store: Store, ids: Sequence[str], before: datetime | None, *, deleted: bool) -> Purged:
    from convstore.errors import PurgeUnfinished

    if ids:
        return Purged([store.purge(id, dry_run=True, after=ids[:place]) for place, id in enumerate(ids)])
    try:
        if before is not None:
            return Purged(store.purge_older_than(before, deleted=deleted, dry_run=True))
        return Purged(store.purge_owner(dry_run=True))
    except PurgeUnfinished as error:
        return Purged(error.receipts, error.busy, failures=error.failures)


def _ask(store: Store, planned: Sequence[PurgeReceipt], owner: str | None) -> None:
    from convstore.errors import ConversationNotFound

    for receipt in planned[:20]:
        note, id = describe_receipt(receipt), receipt.conversation_id
        with suppress(ConversationNotFound):  # somebody has purged it meanwhile
            note = note.replace(id, describe_conversation(_find(store, id)), 1)
        write_terminal_note(note)
    if len(planned) > 20:
        write_terminal_note(f"… and {len(planned) - 20:,} more")
    count = "1 conversation" if len(planned) == 1 else f"{len(planned):,} conversations"
    of_owner = f" and everything else of owner '{owner}'" if owner is not None else ""
    confirm(f"Remove {count}{of_owner} for good", yes=False)


def _purge(
    store: Store,
    ids: Sequence[str],
    older: _Older | None,
    *,
    keep_digests: bool,
    as_json: bool,
) -> Purged:
    from convstore.errors import ConversationBusy, ConvstoreError, PurgeUnfinished

    receipts: list[PurgeReceipt] = []
    busy: list[str] = []
    failures: list[tuple[str, ConvstoreError]] = []
    left: list[str] = []
    with Progress("conversations", as_json=as_json) as progress:
        try:
            if older is not None:
                receipts += store.purge_older_than(
                    older.before,
                    ids=older.ids,
                    deleted=older.deleted,
                    keep_digest=keep_digests,
                    finish=False,
                    on_progress=progress.show,
                )
            elif not ids:
                receipts += store.purge_owner(keep_digest=keep_digests, finish=False, on_progress=progress.show)
        except PurgeUnfinished as error:
            receipts += error.receipts
            busy += error.busy
            failures += error.failures
        for id in ids if older is None else ():
            try:
                receipts.append(store.purge(id, keep_digest=keep_digests, finish=False))
            except ConversationBusy:
                busy.append(id)
            except ConvstoreError as error:
                failures.append((id, error))
            progress.show(len(receipts))
        if receipts or not ids:
            try:
                left = store.finish_purge()
            except ConvstoreError as error:
                failures.append(("", error))
    return Purged(receipts, busy, left, failures)


def _finish(store: Store, *, as_json: bool) -> None:
    left = store.finish_purge()
    if as_json or left:
        print_receipts(Purged([], left=left), as_json=as_json)
    else:
        write_answer("nothing is left to be overwritten")
    if left:
        raise SystemExit(5)
