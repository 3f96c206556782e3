"""`convstore turns`."""

from __future__ import annotations

import sys

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render import output

_TEXT_WIDTH = 60


@click.command(epilog=shared_options.example("convstore turns", "convstore turns games --limit 0 --json"))
@click.argument("ref", required=False)
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, metavar="N", help="How many; 0 for all."
)
@shared_options.json_option
@shared_options.store_options
def turns(ref: str | None, limit: int, as_json: bool, db: str | None, owner: str) -> None:
    """List what was asked, and how it came out.

    Each turn of the conversation with its status, times, tokens and error: the failed and the interrupted ones too,
    which `show` leaves out. REF is its name, its id, or the beginning of its id; without one, it is the conversation
    used last.
    """
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        found = [(turn, store.input_of(turn)) for turn in store.turns(conversation.id, limit=limit or None)]
    if as_json:
        from convstore.cli.render.json_forms import full_turn_form

        rows = ",\n".join(output.json_text(full_turn_form(turn, asked)) for turn, asked in found)
        sys.stdout.write(f"[{rows}]\n")
        return
    if not found:
        output.note("no turns yet: nothing has been said")
        return
    from convstore.messages.codec import text_of

    for turn, asked in found:
        usage = turn.usage
        tokens = f"{usage.prompt_tokens or '?'}+{usage.completion_tokens or '?'}" if usage else "-"
        seconds = f"{turn.latency:.1f}s" if turn.latency is not None else "-"
        said = output.one_line(" ".join(text_of(record.message) for record in asked))
        if not asked:
            said = "(went on)"
        if turn.purpose is not None:
            said = f"({turn.purpose} of what was said up to seq {turn.base_seq})"
        columns = (
            f"{turn.seq:>4}",
            turn.status.value.ljust(11),
            output.local_time(turn.started_at),
            seconds.rjust(7),
            tokens.rjust(11),
            said if len(said) <= _TEXT_WIDTH else said[: _TEXT_WIDTH - 1] + "…",
        )
        sys.stdout.write("  ".join(columns).rstrip() + "\n")
        if turn.error is not None:
            sys.stdout.write(f"      {output.one_line(str(turn.error.get('message', turn.error.get('type'))))}\n")
