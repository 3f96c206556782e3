"""`convstore compact`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render import output

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Conversation, Summary


@click.command(
    epilog=shared_options.example(
        "convstore compact", "convstore compact games --keep-last 4 -m gpt-4o-mini", "convstore compact --drop"
    )
)
@click.argument("ref", required=False)
@click.option(
    "--keep-last",
    type=click.IntRange(min=0),
    metavar="N",
    help="How many turns are left alone.  [default: the conversation's, else 2]",
)
@click.option("-m", "--model", metavar="MODEL", help="The model to write the summary.  [default: the conversation's]")
@click.option("--base-url", metavar="URL", help="The model's server.  [default: OPENAI_BASE_URL, else OpenAI]")
@click.option("--drop", is_flag=True, help="Take the summary back: the messages are sent again.")
@shared_options.json_option
@shared_options.store_options
def compact(
    ref: str | None,
    keep_last: int | None,
    model: str | None,
    base_url: str | None,
    drop: bool,
    as_json: bool,
    db: str | None,
    owner: str,
) -> None:
    """Let the model summarise the older part of a conversation.

    From then on the summary is sent in its place. `show` has every message as before, and --drop takes the summary
    back. REF is the conversation's name, its id, or the beginning of its id; without one, it is the conversation used
    last.
    """
    if drop and (keep_last is not None or model is not None):
        raise click.UsageError("--drop takes a summary back: it goes with neither --keep-last nor -m.")
    with open_store(db, owner, base_url) as store:
        conversation = find_conversation(store, ref)
        if drop:
            _drop(store, conversation, as_json=as_json)
        else:
            _compact(store, conversation, keep_last, model, as_json=as_json)


def _compact(
    store: Store, conversation: Conversation, keep_last: int | None, model: str | None, *, as_json: bool
) -> None:
    output.note_on_terminal("(what was said is summarised: this may take a while)")
    try:
        found = store.compact(conversation.id, keep_last=keep_last, model=model)
    except SystemExit:
        output.note("convstore: stopped; what was summarised before is kept")
        raise
    if as_json:
        output.write_json({"conversation": conversation.id, "summaries": [_form(summary) for summary in found]})
    elif found:
        output.answer(found[-1].text)
    if found:
        output.note(
            f"convstore: this stands for {_messages(found[-1])} from now on (system messages and pinned ones are sent "
            f"as well); `convstore compact --drop` takes it back"
        )
    else:
        output.note("convstore: there is nothing to summarise")


def _drop(store: Store, conversation: Conversation, *, as_json: bool) -> None:
    dropped = store.drop_summary(conversation.id)
    present = store.summary(conversation.id)
    if as_json:
        forms = {"dropped": dropped, "summary": present}
        output.write_json(
            {"conversation": conversation.id, **{key: _form(one) if one else None for key, one in forms.items()}}
        )
    if dropped is None:
        output.note("convstore: there is no summary to take back")
    elif present is not None:
        output.note(f"convstore: taken back; the summary before it stands for {_messages(present)} again")
    else:
        output.note("convstore: taken back; the messages themselves are sent again")


def _messages(summary: Summary) -> str:
    count = summary.up_to_position
    return f"the first {count} messages" if count > 1 else "the first message"


def _form(summary: Summary) -> dict[str, Any]:
    return {
        "turn": summary.turn,
        "up_to_position": summary.up_to_position,
        "up_to_seq": summary.up_to_seq,
        "tokens": summary.tokens,
        "text": summary.text,
        "created_at": summary.created_at,
    }
