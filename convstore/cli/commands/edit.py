"""`convstore edit`."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options import shared_options, window_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render import output
from convstore.cli.render.reply_output import call_options, print_reply
from convstore.errors import ConvstoreError, HeadMoved, InvalidInput, LeaseLost, ReplyNotStored, TurnFailed

if TYPE_CHECKING:
    from convstore.store.store import Store


@click.command(
    epilog=shared_options.example(
        'convstore edit 3 "Where were the 2012 games held?"',
        "convstore edit 3 -c games",
        "convstore edit 1 - < expert.txt",
    )
)
@click.argument("position", type=click.IntRange(min=1))
@click.argument("text", required=False)
@shared_options.conversation_option
@shared_options.parameter_options
@window_options.options
@shared_options.head_option
@call_options
@shared_options.json_option
@shared_options.store_options
def edit(
    position: int,
    text: str | None,
    ref: str | None,
    expected_head: int | None,
    no_stream: bool,
    wait: float,
    no_wait: bool,
    base_url: str | None,
    as_json: bool,
    db: str | None,
    owner: str,
    **given: Any,
) -> None:
    """Ask again from a message, with another text in its place.

    POSITION is the number that `show` has before the message. TEXT missing is written in your editor ($VISUAL,
    $EDITOR), which begins with the old text; where standard input is no terminal, or TEXT is -, it is read from there.
    What was said before stays on record, beside the new.
    """
    options = window_options.taken(given)
    how = {
        "wait": 0.0 if no_wait else wait,
        "expected_head": expected_head,
        **shared_options.parameters(**given),
        **options,
    }
    in_editor = text is None and sys.stdin.isatty()
    if not in_editor and text in (None, "-"):
        text = shared_options.read_typed()
    with open_store(db, owner, base_url) as store:
        target = find_conversation(store, ref).id
        if in_editor:
            text = _written(store, target, position)
        try:
            print_reply(
                stream=partial(store.edit_stream, target, position, text, **how),
                whole=partial(store.edit, target, position, text, **how),
                as_it_comes=not (no_stream or as_json),
                as_json=as_json,
            )
        except ConvstoreError as error:
            if in_editor and not isinstance(error, (TurnFailed, LeaseLost, ReplyNotStored)):
                _hand_back(text)
            raise


def _written(store: Store, target: str, position: int) -> str:
    """Return what a person makes of a message's text in an editor.

    Raises:
        InvalidInput: the message cannot be edited, or nothing was changed, or nothing is left.
        HeadMoved: meanwhile, another message has come to stand there.
    """
    from convstore.messages.codec import text_of
    from convstore.turns.turn_request import check_editable

    record = store.at(target, position)
    check_editable(target, record)
    _ = store.client  # with nobody to ask, nobody need write
    # As an editor can have it: half a character has no form in UTF-8, and click takes CRLF away.
    old = text_of(record.message).encode(errors="replace").decode().replace("\r\n", "\n")
    try:
        new = click.edit(old, extension=".md")
    except click.ClickException as error:
        raise InvalidInput(f"{error.message}; nothing is changed") from None
    except UnicodeDecodeError:
        raise InvalidInput("what the editor left is not UTF-8; nothing is changed") from None
    if new is not None and not old.endswith("\n"):
        new = new.removesuffix("\n")
    if new is None or new == old:
        raise InvalidInput(f"message {position} is as it was; nothing is changed")
    if not new.strip():
        raise InvalidInput("the text is empty; nothing is changed")
    if store.at(target, position).seq != record.seq:
        _hand_back(new)
        raise HeadMoved(
            f"conversation {target}: while you wrote, another message has come to stand at position {position}; "
            f"look again, and repeat"
        )
    return new


def _hand_back(text: str | None) -> None:
    """Print what a person wrote and nobody has stored, so that it is not lost."""
    output.note("convstore: not sent, this is what you wrote:")
    sys.stderr.write(f"{output.neutral(text or '')}\n")
