"""`convstore turns`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option, limit_option, pager_option
from convstore.cli.options.store_options import StoreChoice, open_reader, store_options
from convstore.cli.render.json_forms import full_turn_to_json
from convstore.cli.render.output_streams import format_json, format_local_time, make_one_line, write_note
from convstore.cli.render.pager import page_output
from convstore.cli.render.terminal_table import Column, print_table

if TYPE_CHECKING:
    from convstore.values.results import MessageRecord, Turn

_INPUT_WIDTH = 60  # characters
_MODEL_WIDTH = 24


@click.command(epilog=format_examples("convstore turns", "convstore turns games --limit 0 --json"))
@ref_argument
@limit_option
@json_option
@pager_option
@store_options
def turns(ref: str | None, limit: int, as_json: bool, uses_pager: bool, store_choice: StoreChoice) -> None:
    """List the turns of a conversation.

    Each turn has its status, times, tokens and error; failed and interrupted turns are listed too. REF is a name, an id
    or the beginning of an id; the default is the conversation used last.
    """
    with open_reader(store_choice) as store:
        conversation = find_conversation(store, ref)
        found = [(turn, store.input_of(turn)) for turn in store.turns(conversation.id, limit=limit or None)]
    if as_json:
        rows = ",\n".join(format_json(full_turn_to_json(turn, asked)) for turn, asked in found)
        sys.stdout.write(f"[{rows}]\n")
        return
    if not found:
        write_note("no turns yet")
        return
    if sys.stdout.isatty():
        with page_output(uses_pager=uses_pager):
            _print_table(found)
    else:
        for turn, asked in found:
            _print_turn(turn, asked)


def _print_table(found: Sequence[tuple[Turn, Sequence[MessageRecord]]]) -> None:
    """Print turns for a person: with a header and the model, and no wider than the terminal."""
    columns = [
        Column("TURN", is_number=True),
        Column("STATUS"),
        Column("STARTED"),
        Column("TIME", is_number=True),
        Column("TOKENS", is_number=True),
        Column("MODEL", max_width=_MODEL_WIDTH),
        Column("MESSAGE"),
    ]
    rows = []
    for turn, asked in found:
        *cells, text = _list_cells(turn, asked)
        rows.append((*cells, make_one_line(turn.model or turn.request.get("model") or "-"), text))
    print_table(columns, rows, [_list_remarks(turn) for turn, _ in found])


def _print_turn(turn: Turn, asked: Sequence[MessageRecord]) -> None:
    """Print a turn for a program: always in the same form."""
    number, status, started, seconds, tokens, text = _list_cells(turn, asked)
    columns = (
        number.rjust(4),
        status.ljust(11),
        started,
        seconds.rjust(7),
        tokens.rjust(11),
        text if len(text) <= _INPUT_WIDTH else text[: _INPUT_WIDTH - 1] + "…",
    )
    sys.stdout.write("  ".join(columns).rstrip() + "\n")
    for remark in _list_remarks(turn):
        sys.stdout.write(f"      {remark}\n")


def _list_cells(turn: Turn, asked: Sequence[MessageRecord]) -> tuple[str, str, str, str, str, str]:
    usage = turn.usage
    return (
        str(turn.seq),
        turn.status.value,
        format_local_time(turn.started_at),
        f"{turn.latency:.1f}s" if turn.latency is not None else "-",
        f"{usage.prompt_tokens or '?'}+{usage.completion_tokens or '?'}" if usage else "-",
        _describe_input(turn, asked),
    )


def _list_remarks(turn: Turn) -> list[str]:
    """Return the error of a turn, and what is odd about its reply."""
    error = turn.error
    texts = [str(error.get("message", error.get("type")))] if error is not None else []
    return [make_one_line(text) for text in (*texts, *turn.notes)]


def _describe_input(turn: Turn, asked: Sequence[MessageRecord]) -> str:
    from convstore.messages.message import extract_text

    if turn.purpose is not None:
        return f"({turn.purpose} for the messages up to seq {turn.base_seq})"
    if not asked:
        return "(continued)"
    return make_one_line(" ".join(extract_text(record.message) for record in asked))
