"""`convstore retention`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from convstore.cli.options.age_option import describe_age, read_age
from convstore.cli.options.confirm_option import confirm, dry_run_option, yes_option
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.output_streams import write_answer, write_json, write_note, write_terminal_note
from convstore.cli.render.progress import Progress
from convstore.cli.render.purge_output import Purged, describe_receipt, exit_if_unfinished, print_receipts

if TYPE_CHECKING:
    from datetime import timedelta

    from convstore.errors import ConvstoreError
    from convstore.store.store import Store
    from convstore.values.purge_receipt import PurgeReceipt
    from convstore.values.retention_rule import RetentionRule

_deleted_option = click.option(
    "--deleted", is_flag=True, help="Only deleted conversations, counted from when they were deleted."
)
_all_owners_option = click.option("--all-owners", is_flag=True, help="All owners that have a rule.")


@click.group(
    "retention",
    epilog=format_examples(
        "convstore retention set --owner user-42 365d",
        "convstore retention set --deleted 30d",
        "convstore retention run --all-owners --yes",
    ),
)
def retention() -> None:
    """Say how long conversations are kept, and purge the others.

    Without a rule, conversations are kept for ever. Nothing is purged until somebody runs `convstore retention run`.
    """


@retention.command("set", epilog=format_examples("convstore retention set --owner user-42 365d"))
@click.argument("keep", metavar="TIME", callback=read_age)
@_deleted_option
@json_option
@store_options
def set_rule(keep: timedelta, deleted: bool, as_json: bool, store_choice: StoreChoice) -> None:
    """Set how long the owner's conversations are kept.

    TIME is 90d, 12h, 4w or 1y (365 days) after the last change. Nothing is purged now.
    """
    with open_store(store_choice) as store:
        rule = store.set_retention(keep, covers=_name(deleted=deleted))
    _print_rules([rule], as_json=as_json)


@retention.command(epilog=format_examples("convstore retention show --all-owners"))
@_all_owners_option
@json_option
@store_options
def show(all_owners: bool, as_json: bool, store_choice: StoreChoice) -> None:
    """Show how long conversations are kept."""
    with open_store(store_choice) as store:
        rules = [rule for view in _list_views(store, all_owners=all_owners) for rule in view.retention()]
    _print_rules(rules, as_json=as_json)
    if not rules:
        write_terminal_note("no rule: conversations are kept for ever")


@retention.command(epilog=format_examples("convstore retention unset --owner user-42"))
@_deleted_option
@store_options
def unset(deleted: bool, store_choice: StoreChoice) -> None:
    """Remove the rule: conversations are kept for ever."""
    with open_store(store_choice) as store:
        if not store.unset_retention(covers=_name(deleted=deleted)):
            write_note("there was no such rule")


@retention.command(epilog=format_examples("convstore retention run --dry-run", "convstore retention run --yes"))
@_all_owners_option
@yes_option
@dry_run_option
@json_option
@store_options
def run(all_owners: bool, yes: bool, dry_run: bool, as_json: bool, store_choice: StoreChoice) -> None:
    """Purge the conversations that were kept long enough.

    It does what `convstore purge` does, and exits with 5 in the same cases.
    """
    with open_store(store_choice) as store:
        views = _list_views(store, all_owners=all_owners)
        confirmed: dict[str, list[str]] | None = None
        if dry_run or not yes:
            planned, failures = _plan(views)
            if dry_run:
                trial = Purged(planned, failures=failures, is_trial=True)
                print_receipts(trial, as_json=as_json)
                exit_if_unfinished(trial)
                return
            if planned:
                for receipt in planned[:20]:
                    write_terminal_note(describe_receipt(receipt))
                confirm(f"Remove {len(planned):,} conversation(s) for good", yes=False)
            confirmed = {view.owner: [] for view in views}
            for receipt in planned:
                confirmed[receipt.owner].append(receipt.conversation_id)
        done = _run(store, views, confirmed, as_json=as_json)
    print_receipts(done, as_json=as_json)
    exit_if_unfinished(done)


def _plan(views: list[Store]) -> tuple[list[PurgeReceipt], list[tuple[str, ConvstoreError]]]:
    """Return what would be purged, and what could not be."""
    from convstore.errors import PurgeUnfinished

    receipts: list[PurgeReceipt] = []
    failures: list[tuple[str, ConvstoreError]] = []
    for view in views:
        try:
            receipts += view.run_retention(dry_run=True)
        except PurgeUnfinished as error:
            receipts += error.receipts
            failures += error.failures
    return receipts, failures


def _run(store: Store, views: list[Store], confirmed: dict[str, list[str]] | None, *, as_json: bool) -> Purged:
    """Purge what was confirmed, of each owner; None: all that were kept long enough."""
    from convstore.errors import ConvstoreError, PurgeUnfinished

    receipts: list[PurgeReceipt] = []
    busy: list[str] = []
    failures: list[tuple[str, ConvstoreError]] = []
    left: list[str] = []
    with Progress("conversations", as_json=as_json) as progress:
        for view in views:
            ids = confirmed[view.owner] if confirmed is not None else None
            try:
                receipts += view.run_retention(ids=ids, finish=False, on_progress=progress.show)
            except PurgeUnfinished as error:
                receipts += error.receipts
                busy += error.busy
                failures += error.failures
            except ConvstoreError as error:
                failures.append(("", error))
                break
        try:
            left = store.finish_purge()
        except ConvstoreError as error:
            failures.append(("", error))
    return Purged(receipts, busy, left, failures)


def _name(*, deleted: bool) -> Literal["all", "deleted"]:
    return "deleted" if deleted else "all"


def _list_views(store: Store, *, all_owners: bool) -> list[Store]:
    return [store.for_owner(owner) for owner in store.list_retention_owners()] if all_owners else [store]


def _print_rules(rules: list[RetentionRule], *, as_json: bool) -> None:
    if as_json:
        write_json([_rule_to_json(rule) for rule in rules])
        return
    for rule in rules:
        what = "deleted conversations are" if rule.covers == "deleted" else "conversations are"
        of_owner = f"owner '{rule.owner}': " if rule.owner else ""
        write_answer(f"{of_owner}{what} kept for {describe_age(rule.keep)}")


def _rule_to_json(rule: RetentionRule) -> dict[str, Any]:
    return {
        "owner": rule.owner,
        "covers": rule.covers.value,
        "keep_seconds": int(rule.keep.total_seconds()),
        "set_at": rule.set_at,
    }
