"""`convstore edit`."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.call_options import CallOptions, call_options
from convstore.cli.options.conversation_option import conversation_option, find_conversation
from convstore.cli.options.help_text import SectionedCommand, format_examples
from convstore.cli.options.history_options import window_options
from convstore.cli.options.parameter_options import parameter_options
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.options.text_editor import open_editor
from convstore.cli.options.text_input import read_typed_text
from convstore.cli.render.output_streams import neutralise, write_note
from convstore.cli.render.reply_output import print_reply
from convstore.errors import ConvstoreError, HeadMoved, InvalidInput, LeaseLost, ReplyNotStored, TurnFailed

if TYPE_CHECKING:
    from convstore.store.store import Store


@click.command(
    cls=SectionedCommand,
    epilog=format_examples(
        'convstore edit 3 "Where were the 2012 games held?"',
        "convstore edit 3 -c games",
        "convstore edit 1 - < expert.txt",
    ),
)
@click.argument("position", type=click.IntRange(min=1))
@click.argument("text", required=False)
@conversation_option
@parameter_options
@window_options
@call_options
@store_options
def edit(
    position: int,
    text: str | None,
    ref: str | None,
    parameters: dict[str, Any],
    window: dict[str, Any],
    call: CallOptions,
    store_choice: StoreChoice,
) -> None:
    """Edit a message and ask again.

    POSITION is the number before the message in `show`. Without TEXT, your editor ($VISUAL, $EDITOR) opens with the old
    text. If TEXT is -, or there is no TEXT and standard input is not a terminal, the text is read from standard input.
    The old message and all messages after it are kept.
    """
    uses_editor = text is None and sys.stdin.isatty()
    if text == "-" or (text is None and not uses_editor):
        text = read_typed_text()
    with open_store(store_choice, call.base_url) as store:
        target = find_conversation(store, ref).id
        new_text = text if text is not None else _edit_text(store, target, position)
        edited = {"position": position, "message": new_text, **call.store_arguments, **parameters, **window}
        try:
            print_reply(
                partial(store.edit_stream, target, **edited),
                partial(store.edit, target, **edited),
                as_stream=call.as_stream,
                as_json=call.as_json,
                is_plain=call.is_plain,
            )
        except ConvstoreError as error:
            is_stored = isinstance(error, (TurnFailed, LeaseLost, ReplyNotStored))
            if uses_editor and not is_stored:
                _print_unsent_text(new_text)
            raise


def _edit_text(store: Store, target: str, position: int) -> str:
    """Let the user change the text of a message in an editor, and return the new text.

    Raises:
        InvalidInput: the message cannot be edited, or the text is unchanged or empty.
        HeadMoved: another message is at this position now.
    """
    from convstore.messages.message import extract_text
    from convstore.turns.turn_request import check_editable

    record = store.at(target, position)
    check_editable(target, record)
    _ = store.client  # raise NotConfigured before the user writes a text that could not be sent
    # An editor cannot show lone surrogates, and click removes the CR of CRLF.
    old = extract_text(record.message).encode(errors="replace").decode().replace("\r\n", "\n")
    new = open_editor(old, ".md", result="nothing is sent")
    if new == old:
        raise InvalidInput(f"message {position} was not changed; nothing is sent")
    if not new.strip():
        raise InvalidInput("the text is empty; nothing is sent")
    if store.at(target, position).seq != record.seq:
        _print_unsent_text(new)
        raise HeadMoved(f"conversation '{target}': another message is at position {position} now; nothing is sent")
    return new


def _print_unsent_text(text: str) -> None:
    """Print the user's text on stderr, because it was not stored."""
    write_note("not sent; this is your text:")
    sys.stderr.write(f"{neutralise(text)}\n")
