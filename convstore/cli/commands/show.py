"""`convstore show`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option, pager_option, plain_option
from convstore.cli.options.store_options import StoreChoice, open_reader, store_options
from convstore.cli.render.attachment_files import save_attachments
from convstore.cli.render.conversation_text import describe_conversation, describe_settings
from convstore.cli.render.json_forms import conversation_to_json, message_to_json, unanswered_turn_to_json
from convstore.cli.render.message_output import print_message, style_output
from convstore.cli.render.output_streams import format_local_time, make_one_line, write_answer, write_json
from convstore.cli.render.pager import page_output
from convstore.cli.render.tree_output import print_tree, tree_to_json

if TYPE_CHECKING:
    from convstore.store.read_methods import ReadMethods
    from convstore.values.results import Conversation, MessageRecord, Turn

_PAGE = 20  # messages
_NO_POSITION = "–"  # printed before a message that is not on the path


@click.command(
    epilog=format_examples(
        "convstore show",
        "convstore show games --last 4",
        "convstore show games --tree",
        "convstore show games --raw > answer.md",
        "convstore show 3kx9 --json > games.json",
        "convstore show games --save-attachments photos",
    )
)
@ref_argument
@click.option("-n", "--last", type=click.IntRange(min=1), metavar="N", help="Number of last messages.  [default: all]")
@click.option(
    "--save-attachments",
    "folder",
    metavar="FOLDER",
    help="Folder for the images, sounds and files of these messages; their paths are printed.",
)
@click.option("--raw", "is_raw", is_flag=True, help="Text of the last reply alone, as it is stored.")
@click.option("--tree", "is_tree", is_flag=True, help="Tree of all messages, on the path and off it.")
@plain_option
@json_option
@pager_option
@store_options
def show(
    ref: str | None,
    last: int | None,
    folder: str | None,
    is_raw: bool,
    is_tree: bool,
    is_plain: bool,
    as_json: bool,
    uses_pager: bool,
    store_choice: StoreChoice,
) -> None:
    """Print a conversation's messages.

    Messages that were not answered since the last reply are printed at the end. They are stored, but later turns leave
    them out. REF is a name, an id or the beginning of an id; the default is the conversation used last.

    With --tree, each message is one line: * if it is on the path, o if it is off the path; its seq, which `checkout`
    takes; its position; and its first words.
    """
    if is_tree and (last is not None or folder is not None):
        raise click.UsageError("--tree shows every message: give it without --last and --save-attachments.")
    if is_raw and (last is not None or folder is not None or is_tree or as_json):
        raise click.UsageError("--raw prints one text: give it without the other forms.")
    with open_reader(store_choice) as store:
        conversation = find_conversation(store, ref)
        if is_tree:
            with page_output(uses_pager=uses_pager and not as_json):
                _show_tree(store, conversation, as_json=as_json)
            return
        if is_raw:
            write_answer(_read_last_reply(store, conversation))
            return
        records = store.messages(conversation.id, limit=last)
        if folder is not None:
            save_attachments(records, Path(folder), as_json=as_json)
            return
        interrupted = store.interrupted(conversation.id, records)
        ratings = {rating.seq: rating for rating in store.ratings(conversation.id)}
        unanswered = [(turn, store.input_of(turn)) for turn in store.unanswered(conversation.id)]
    if as_json:
        form = conversation_to_json(conversation)
        form["messages"] = [message_to_json(record, ratings.get(record.seq)) for record in records]
        form["unanswered"] = [unanswered_turn_to_json(turn, asked) for turn, asked in unanswered]
        write_json(form, indent=2)
        return
    with page_output(uses_pager=uses_pager):
        _print_heading(conversation)
        for record in records:
            marks = {"interrupted": record.seq in interrupted, "pinned": record.seq in conversation.pins}
            remarks = [mark for mark, is_set in marks.items() if is_set]
            if record.redacted_at is not None:
                remarks.append(f"redacted {format_local_time(record.redacted_at)}")
            if record.seq in ratings:
                remarks.append(f"rated {ratings[record.seq].rating}")
            remark = ", ".join(remarks)
            print_message(f"{record.position}", record.message, f"({remark})" if remark else "", is_plain=is_plain)
        for turn, asked in unanswered:
            _print_unanswered(turn, asked, is_plain=is_plain)


def _read_last_reply(store: ReadMethods, conversation: Conversation) -> str:
    """Return the text of the last reply.

    Raises:
        InvalidInput: the path has no reply.
    """
    from convstore.errors import InvalidInput
    from convstore.messages.message import extract_text  # here, so that `show --help` imports neither

    page = store.messages(conversation.id, limit=_PAGE)
    while page:
        for record in reversed(page):
            if record.message["role"] == "assistant":
                return extract_text(record.message)
        page = store.messages(conversation.id, limit=_PAGE, before=page[0].seq)
    raise InvalidInput(f"conversation {conversation.id!r} has no reply yet")


def _show_tree(store: ReadMethods, conversation: Conversation, *, as_json: bool) -> None:
    if as_json:
        write_json({**conversation_to_json(conversation), "tree": tree_to_json(store, conversation)}, indent=2)
    else:
        _print_heading(conversation)
        print_tree(store, conversation)


def _print_heading(conversation: Conversation) -> None:
    settings = describe_settings(conversation)
    sys.stdout.write(style_output(make_one_line(describe_conversation(conversation)), bold=True) + "\n")
    if settings:
        sys.stdout.write(style_output(make_one_line(settings), dim=True) + "\n")


def _print_unanswered(turn: Turn, asked: Sequence[MessageRecord], *, is_plain: bool) -> None:
    """Print the messages of a turn without a complete reply, and its partial reply."""
    if turn.status.value == "running":
        remark = f"(turn {turn.seq}: being answered)"
    else:
        remark = f"(turn {turn.seq}: not answered: {(turn.error or {}).get('message', 'no reply')})"
    for record in asked:
        print_message(_NO_POSITION, record.message, remark)
    if turn.message is not None:
        print_message(_NO_POSITION, turn.message, f"(turn {turn.seq}: partial reply)", is_plain=is_plain)
