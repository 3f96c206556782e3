"""`convstore compact`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convstore.cli.options.call_options import base_url_option
from convstore.cli.options.completed_words import complete_model
from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.json_forms import summary_to_json
from convstore.cli.render.output_streams import write_answer, write_json, write_note, write_terminal_note

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Summary


@click.command(
    epilog=format_examples(
        "convstore compact", "convstore compact games --keep-last 4 -m gpt-4o-mini", "convstore compact --drop"
    )
)
@ref_argument
@click.option(
    "--keep-last",
    type=click.IntRange(min=0),
    metavar="N",
    help="Number of last turns that the summary does not cover.  [default: the conversation's, else 2]",
)
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    shell_complete=complete_model,
    help="Model that writes the summary.  [default: the conversation's]",
)
@base_url_option
@click.option(
    "--drop",
    "is_drop",
    is_flag=True,
    help="Removal of the latest summary; the messages that it replaced are sent again.",
)
@json_option
@store_options
def compact(
    ref: str | None,
    keep_last: int | None,
    model: str | None,
    base_url: str | None,
    is_drop: bool,
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Summarise the older messages of a conversation.

    Requests then hold the summary instead of these messages. `show` still shows every message, and --drop removes the
    summary.
    REF is a name, an id or the beginning of an id; the default is the conversation used last.
    """
    if is_drop and (keep_last is not None or model is not None):
        raise click.UsageError("--drop calls no model: give it without --keep-last and -m.")
    with open_store(store_choice, base_url) as store:
        target = find_conversation(store, ref).id
        if is_drop:
            _drop_summary(store, target, as_json=as_json)
        else:
            _compact(store, target, keep_last, model, as_json=as_json)


def _compact(store: Store, target: str, keep_last: int | None, model: str | None, *, as_json: bool) -> None:
    write_terminal_note("(the model writes a summary: this may take a while)")
    try:
        found = store.compact(target, keep_last=keep_last, model=model)
    except SystemExit:
        write_note("interrupted; summaries that are complete are kept")
        raise
    if as_json:
        write_json({"conversation": target, "summaries": [summary_to_json(summary) for summary in found]})
    elif found:
        write_answer(found[-1].text)
    if found:
        replaced = _count_messages(found[-1])
        write_note(
            f"in requests this summary now replaces {replaced} (but no system or pinned message); "
            "`convstore compact --drop` drops it"
        )
    else:
        write_note("nothing to summarise")


def _drop_summary(store: Store, target: str, *, as_json: bool) -> None:
    dropped = store.drop_summary(target)
    present = store.summary(target)
    if as_json:
        forms = {"dropped": dropped, "summary": present}
        write_json(
            {"conversation": target, **{key: summary_to_json(one) if one else None for key, one in forms.items()}}
        )
    if dropped is None:
        write_note("no summary to drop")
    elif present is not None:
        write_note(f"dropped; the earlier summary replaces {_count_messages(present)} again")
    else:
        write_note("dropped; the messages are sent again")


def _count_messages(summary: Summary) -> str:
    count = summary.up_to_position
    return f"the first {count} messages" if count > 1 else "the first message"
