"""`convstore redact`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from convstore.cli.options.confirm_option import confirm, dry_run_option, yes_option
from convstore.cli.options.conversation_option import conversation_option, find_conversation
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.json_forms import redaction_to_json
from convstore.cli.render.output_streams import neutralise, write_answer, write_json, write_terminal_note

if TYPE_CHECKING:
    from convstore.values.redaction_report import MessagePlace, Redaction

_MAX_LISTED = 20  # places; --json has all


@click.command(
    epilog=format_examples(
        "convstore redact 3",
        "convstore redact 3 5 -c games --yes",
        "convstore redact 3 --match 'hunter2|sk-[A-Za-z0-9]+'",
        "convstore redact 3 --match hunter2 --everywhere --dry-run",
    )
)
@click.argument("positions", type=click.IntRange(min=1), nargs=-1, required=True, metavar="POSITION...")
@conversation_option
@click.option("--match", metavar="REGEX", help="Regular expression: only what it matches is removed.")
@click.option("--everywhere", is_flag=True, help="Other messages of the owner with the text too.")
@yes_option
@dry_run_option
@json_option
@store_options
def redact(
    positions: tuple[int, ...],
    ref: str | None,
    match: str | None,
    everywhere: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Remove the text of messages, or parts of it, for good.

    POSITION is the number before the message in `show`. The message stays in its place as [redacted], and so do its
    copies by retries and edits, and in forks. Requests, errors, summaries, titles and the search index lose the text
    too. It cannot be undone. Other messages where the text occurs are listed. A SQLite file is rewritten.
    """
    from convstore.errors import InvalidInput
    from convstore.store.redaction_methods import check_finished

    with open_store(store_choice) as store:
        conversation = find_conversation(store, ref)
        wanted = list(dict.fromkeys(positions))
        planned = [
            store.redact(conversation.id, position, match=match, everywhere=everywhere, dry_run=True)
            for position in wanted
        ]
        if dry_run:
            _print(planned, as_json=as_json)
            return
        if not yes:
            _ask(planned)
        done: list[Redaction] = []
        for position in wanted:
            try:
                done.append(store.redact(conversation.id, position, match=match, everywhere=everywhere, finish=False))
            except InvalidInput:
                if not done:  # else it was equal to one before it, and is redacted with it
                    raise
        left = store.finish_purge()
        _print(done, as_json=as_json)
        check_finished(done, left)


def _ask(planned: Sequence[Redaction]) -> None:
    for one in planned:
        for line in _describe(one):
            write_terminal_note(line)
    count = sum(len(one.redacted) for one in planned)
    confirm(f"Redact {_count(count, 'message')} for good", yes=False)


def _print(redactions: Sequence[Redaction], *, as_json: bool) -> None:
    if as_json:
        write_json([redaction_to_json(one) for one in redactions])
        return
    for one in redactions:
        for line in _describe(one):
            write_answer(neutralise(line))


def _describe(one: Redaction) -> list[str]:
    """Return what was done, or would be, as lines."""
    is_done = one.redacted_at is not None
    part = "" if one.extent == "message" else "a part of "
    copies = len(one.redacted) - 1
    lines = [
        f"{'redacted' if is_done else 'would redact'} {part}message {one.position} of {one.conversation}"
        + (f", and {_count(copies, 'other message')} with the text:" if copies > 0 else "")
    ]
    if copies > 0:
        lines += _list_places(one.redacted)
    if is_done:
        changed = {"turn": one.turns, "summary": one.summaries, "conversation": one.conversations}
        counts = [_count(number, name) for name, number in changed.items() if number]
        counts += [f"removed {_count(one.attachments, 'file')}"] if one.attachments else []
        what = f"; changed {', '.join(counts)}" if counts else ""
        lines.append(f"computed {_count(one.digests, 'digest')} anew{what}")
    if one.others:
        where = _count(len(one.others), "other message")
        lines.append(f"the text {'is still' if is_done else 'is also'} in {where} (--everywhere redacts them too):")
        lines += _list_places(one.others)
    return lines


def _list_places(places: Sequence[MessagePlace]) -> list[str]:
    listed = [
        f"  {place.conversation} message {place.position}, {place.role} (seq {place.seq})"
        for place in places[:_MAX_LISTED]
    ]
    return listed + ([f"  … and {len(places) - _MAX_LISTED:,} more"] if len(places) > _MAX_LISTED else [])


def _count(number: int, name: str) -> str:
    plural = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
    return f"{number:,} {name if number == 1 else plural}"
