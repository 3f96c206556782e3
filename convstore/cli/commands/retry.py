"""`convstore retry`."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.call_options import CallOptions, call_options
from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import SectionedCommand, format_examples
from convstore.cli.options.history_options import window_options
from convstore.cli.options.parameter_options import parameter_options
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.output_streams import write_terminal_note
from convstore.cli.render.reply_output import print_reply

if TYPE_CHECKING:
    from convstore.store.store import Store

_SHOWN_CHARACTERS = 60


@click.command(
    cls=SectionedCommand, epilog=format_examples("convstore retry", "convstore retry games -m gpt-4o --temperature 1")
)
@ref_argument
@parameter_options
@window_options
@call_options
@store_options
def retry(
    ref: str | None, parameters: dict[str, Any], window: dict[str, Any], call: CallOptions, store_choice: StoreChoice
) -> None:
    """Ask the last question again.

    Use it after a failure or an interruption, or to get another reply. The new reply replaces the old one on the path;
    the old one is kept. Options given here replace the parameters and window options of the old request. REF is a name,
    an id or the beginning of an id; the default is the conversation used last.
    """
    arguments = {**call.store_arguments, **parameters, **window}
    with open_store(store_choice, call.base_url) as store:
        target = find_conversation(store, ref).id
        _name_request(store, target)
        print_reply(
            partial(store.retry_stream, target, **arguments),
            partial(store.retry, target, **arguments),
            as_stream=call.as_stream,
            as_json=call.as_json,
            is_plain=call.is_plain,
        )


def _name_request(store: Store, target: str) -> None:
    """Print on a terminal which message is sent again.

    It may be an older message than the user thinks.
    """
    from convstore.messages.message import extract_text

    if not sys.stderr.isatty():
        return
    asked = next((turn for turn in reversed(store.turns(target, limit=10)) if turn.window and not turn.purpose), None)
    if asked is not None:
        text = " ".join(extract_text(record.message) for record in store.input_of(asked))
        write_terminal_note(f"(asks again: {text[:_SHOWN_CHARACTERS]})")
