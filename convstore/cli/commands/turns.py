"""`convstore turns`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option, limit_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.json_forms import full_turn_to_json
from convstore.cli.render.output_streams import format_json, format_local_time, make_one_line, write_note

if TYPE_CHECKING:
    from convstore.values.results import MessageRecord, Turn

_INPUT_WIDTH = 60  # characters


@click.command(epilog=format_examples("convstore turns", "convstore turns games --limit 0 --json"))
@ref_argument
@limit_option
@json_option
@store_options
def turns(ref: str | None, limit: int, as_json: bool, store_choice: StoreChoice) -> None:
    """List the turns of a conversation.

    Each turn has its status, times, tokens and error; failed and interrupted turns are listed too. REF is a name, an id
    or the beginning of an id; the default is the conversation used last.
    """
    with open_store(store_choice) as store:
        conversation = find_conversation(store, ref)
        found = [(turn, store.input_of(turn)) for turn in store.turns(conversation.id, limit=limit or None)]
    if as_json:
        rows = ",\n".join(format_json(full_turn_to_json(turn, asked)) for turn, asked in found)
        sys.stdout.write(f"[{rows}]\n")
        return
    if not found:
        write_note("no turns yet")
        return
    for turn, asked in found:
        _print_turn(turn, asked)


def _print_turn(turn: Turn, asked: Sequence[MessageRecord]) -> None:
    usage = turn.usage
    tokens = f"{usage.prompt_tokens or '?'}+{usage.completion_tokens or '?'}" if usage else "-"
    seconds = f"{turn.latency:.1f}s" if turn.latency is not None else "-"
    text = _describe_input(turn, asked)
    columns = (
        f"{turn.seq:>4}",
        turn.status.value.ljust(11),
        format_local_time(turn.started_at),
        seconds.rjust(7),
        tokens.rjust(11),
        text if len(text) <= _INPUT_WIDTH else text[: _INPUT_WIDTH - 1] + "…",
    )
    sys.stdout.write("  ".join(columns).rstrip() + "\n")
    if turn.error is not None:
        sys.stdout.write(f"      {make_one_line(str(turn.error.get('message', turn.error.get('type'))))}\n")
    for note in turn.notes:
        sys.stdout.write(f"      {make_one_line(note)}\n")


def _describe_input(turn: Turn, asked: Sequence[MessageRecord]) -> str:
    from convstore.messages.message import extract_text

    if turn.purpose is not None:
        return f"({turn.purpose} of the messages up to seq {turn.base_seq})"
    if not asked:
        return "(continued)"
    return make_one_line(" ".join(extract_text(record.message) for record in asked))
