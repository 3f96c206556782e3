"""`convstore follow`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import plain_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.output_streams import write_note
from convstore.cli.render.text_output import make_text_writer

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Turn

_SEARCHED_TURNS = 5  # summaries that were written since are left out


@click.command(epilog=format_examples("convstore follow", "convstore follow games"))
@ref_argument
@plain_option
@store_options
def follow(ref: str | None, is_plain: bool, store_choice: StoreChoice) -> None:
    """Print a reply that another process streams.

    It prints the reply from its beginning to its end, about half a second late. If the turn failed, the exit code is 6.
    REF is a name, an id or the beginning
    of an id; the default is the conversation used last.
    """
    last_piece = ""
    writer = make_text_writer(is_plain=is_plain)
    with open_store(store_choice) as store:
        target = find_conversation(store, ref).id
        before = _find_latest_turn(store, target)
        try:
            for piece in store.follow(target):
                last_piece = piece  # before it is printed: Ctrl-C may come at once
                _write(writer.add(piece))
        finally:
            _write(writer.end())
        was_running = before is not None and before.status.value == "running"
        followed = _find_latest_turn(store, target, before.seq if before is not None and was_running else None)
    if followed is not None and (last_piece or was_running or followed.status.value == "failed"):
        _report_end(followed, has_text=bool(last_piece))
    else:
        write_note("no reply is being streamed")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _find_latest_turn(store: Store, target: str, seq: int | None = None) -> Turn | None:
    """Return the latest turn that asks for a reply, or the turn with a number."""
    turns = store.turns(target, before=seq + 1 if seq is not None else None, limit=_SEARCHED_TURNS)
    return next((turn for turn in reversed(turns) if turn.purpose is None), None)


def _report_end(turn: Turn, *, has_text: bool) -> None:
    """Print on stderr how a turn ended, if it has no complete reply.

    Raises:
        TurnFailed: the model or its provider failed.
    """
    from convstore.turns.turn_end import check_ended_well

    error = turn.error or {}
    if error.get("type") == "Stopped":
        write_note("the reply was stopped" + ("" if has_text else " before anything came"))
    elif turn.status.value in ("failed", "interrupted"):
        check_ended_well(turn, is_held=True)
    elif turn.status.value == "running":  # its process has died
        write_note("the process that streamed this reply has ended")
    elif not has_text:
        write_note("no reply is being streamed")
