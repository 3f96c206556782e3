"""`convstore show`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import describe, find_conversation, open_store
from convstore.cli.render import attachments, message_text, output, tree_view

if TYPE_CHECKING:
    from convstore.messages.codec import Message
    from convstore.store.store import Store
    from convstore.values.results import Conversation, Turn


@click.command(
    epilog=shared_options.example(
        "convstore show",
        "convstore show games --last 4",
        "convstore show games --tree",
        "convstore show 3kx9 --json > games.json",
        "convstore show games --save-attachments photos",
    )
)
@click.argument("ref", required=False)
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N messages.")
@click.option(
    "--save-attachments",
    "folder",
    metavar="FOLDER",
    help="Write the images, sounds and files of these messages into FOLDER, and print their paths.",
)
@click.option(
    "--tree", "all_of_it", is_flag=True, help="Draw all messages, those too that undo, edit, retry and failures left."
)
@shared_options.json_option
@shared_options.store_options
def show(
    ref: str | None,
    last: int | None,
    folder: str | None,
    all_of_it: bool,
    as_json: bool,
    db: str | None,
    owner: str,
) -> None:
    """Print a conversation's messages, and what was not answered.

    REF is its name, its id, or the beginning of its id; without one, it is the conversation used last. What was asked
    since the last answer and has none comes at the end: it is kept, and not sent again.

    With --tree, a line for each message: * for those of the conversation as it is now, and o for the others; its seq,
    which `checkout` takes; its position; and how it begins.
    """
    if all_of_it and (last is not None or folder is not None):
        raise click.UsageError("--tree shows all of it, and goes with neither --last nor --save-attachments.")
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        if all_of_it:
            _show_tree(store, conversation, as_json=as_json)
            return
        records = store.messages(conversation.id, limit=last)
        if folder is not None:
            attachments.save_and_print(records, folder, as_json=as_json)
            return
        broken_off = store.interrupted(conversation.id, records)
        unanswered = [(turn, store.input_of(turn)) for turn in store.unanswered(conversation.id)]
    if as_json:
        from convstore.cli.render.json_forms import conversation_form, message_form

        form = conversation_form(conversation)
        form["messages"] = [message_form(record) for record in records]
        form["unanswered"] = [
            {
                "turn": turn.seq,
                "status": turn.status.value,
                "error": turn.error,
                "messages": [record.message for record in asked],
                "reply": turn.message,
            }
            for turn, asked in unanswered
        ]
        output.write_json(form, indent=2)
        return
    _print_heading(conversation)
    for record in records:
        remarks = [
            word for word, of in (("interrupted", broken_off), ("pinned", conversation.pins)) if record.seq in of
        ]
        _print_message(f"{record.position}", record.message, f"({', '.join(remarks)})" if remarks else "")
    for turn, asked in unanswered:
        for record in asked:
            _print_message("–", record.message, _remark(turn))
        if turn.message is not None:
            _print_message("–", turn.message, f"(turn {turn.seq}: as far as it came)")


def _show_tree(store: Store, conversation: Conversation, *, as_json: bool) -> None:
    if as_json:
        from convstore.cli.render.json_forms import conversation_form

        output.write_json(
            {**conversation_form(conversation), "tree": tree_view.tree_form(store, conversation)}, indent=2
        )
    else:
        _print_heading(conversation)
        tree_view.print_tree(store, conversation)


def _print_heading(conversation: Conversation) -> None:
    kept = {**conversation.settings, **conversation.window}
    if conversation.forked_from is not None:
        kept["forked from"] = conversation.forked_from
    settings = " · ".join(f"{key} {_value(value)}" for key, value in kept.items())
    sys.stdout.write(_styled(output.one_line(describe(conversation)), bold=True) + "\n")
    if settings:
        sys.stdout.write(_styled(output.one_line(settings), dim=True) + "\n")


def _print_message(position: str, message: Message, remark: str = "") -> None:
    name = message.get("name")
    heading = " ".join(part for part in (position, message["role"], str(name) if name else "", remark) if part)
    output.answer("")
    sys.stdout.write(_styled(output.one_line(heading), bold=True) + "\n")
    output.answer(message_text.readable(message))


def _styled(text: str, **how: Any) -> str:
    return click.style(text, **how) if output.colours(sys.stdout) else text


def _remark(turn: Turn) -> str:
    if turn.status.value == "running":
        return f"(turn {turn.seq}: being answered)"
    problem = (turn.error or {}).get("message", "no reply")
    return f"(turn {turn.seq}: not answered: {problem})"


def _value(value: object) -> str:
    return value if isinstance(value, str) else output.json_text(value)
