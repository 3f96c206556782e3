"""Print every message of a conversation, on the path and off it: `show --tree`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.render.json_forms import message_to_json
from convstore.cli.render.output_streams import format_local_time, has_colours, make_one_line
from convstore.cli.render.tree_drawing import ASCII_GLYPHS, BOX_GLYPHS, Glyphs, draw_tree, find_leaves, find_path

if TYPE_CHECKING:
    from convstore.store.read_methods import ReadMethods
    from convstore.values.results import Conversation, MessageRecord, Summary

_DEFAULT_WIDTH = 100  # columns, if stdout is not a terminal
_STATUS_REMARKS = {"running": "being answered", "unanswered": "not answered"}


def print_tree(store: ReadMethods, conversation: Conversation) -> None:
    """Print the tree as lines."""
    records = store.tree(conversation.id)
    remarks = _collect_remarks(
        conversation, records, _find_statuses(store, conversation, records), store.summary(conversation.id)
    )
    on_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if on_terminal else _DEFAULT_WIDTH
    coloured = has_colours(sys.stdout)
    for line in draw_tree(records, conversation.head_seq, remarks, width, _choose_glyphs()):
        sys.stdout.write((click.style(line.text, dim=True) if coloured and not line.on_path else line.text) + "\n")


def tree_to_json(store: ReadMethods, conversation: Conversation) -> list[dict[str, Any]]:
    """Return the JSON form of every message, with its place in the tree."""
    records = store.tree(conversation.id)
    statuses = _find_statuses(store, conversation, records)
    on_path = find_path(records, conversation.head_seq)
    return [
        {
            **message_to_json(record),
            "parent_seq": record.parent_seq,
            "on_path": record.seq in on_path,
            "pinned": record.seq in conversation.pins,
            "status": statuses.get(record.seq),
        }
        for record in records
    ]


def _find_statuses(store: ReadMethods, conversation: Conversation, records: Sequence[MessageRecord]) -> dict[int, str]:
    """Return the turn's status of each partial reply and each unanswered message.

    The key is the `seq` of the message.
    """
    found: dict[int, str] = dict.fromkeys(store.interrupted(conversation.id, records), "interrupted")
    asked = {
        record.seq: record.turn
        for record in find_leaves(records)
        if record.turn is not None and record.message["role"] != "assistant"
    }
    latest = store.turns(conversation.id, limit=1) if asked else []
    count = latest[0].seq - min(asked.values()) + 1 if latest else 0
    turns = {turn.seq: turn.status.value for turn in store.turns(conversation.id, limit=count)} if count > 0 else {}
    on_path = find_path(records, conversation.head_seq)
    for seq, turn in asked.items():
        # A fork does not have the turns of the messages that it shares; they belong to the origin.
        status = turns.get(turn, "completed" if seq in on_path else "unanswered")
        if status != "completed":
            found[seq] = status
    return found


def _collect_remarks(
    conversation: Conversation,
    records: Sequence[MessageRecord],
    statuses: Mapping[int, str],
    summary: Summary | None,
) -> dict[int, str]:
    """Return the text to print after each message, such as `(interrupted, pinned)`."""
    remarks: dict[int, list[str]] = {seq: [_STATUS_REMARKS.get(status, status)] for seq, status in statuses.items()}
    for record in records:
        if record.redacted_at is not None:
            remarks.setdefault(record.seq, []).append(f"redacted {format_local_time(record.redacted_at)}")
    for seq in conversation.pins:
        remarks.setdefault(seq, []).append("pinned")
    if conversation.forked_at:
        origin = make_one_line(str(conversation.forked_from))
        remarks.setdefault(conversation.forked_at, []).append(f"forked from {origin} here")
    if summary is not None:
        remarks.setdefault(summary.up_to_seq, []).append("summarised up to here")
    return {seq: f"({', '.join(words)})" for seq, words in remarks.items()}


def _choose_glyphs() -> Glyphs:
    """Return box characters if stdout can encode them, else ASCII."""
    try:
        BOX_GLYPHS.all.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII_GLYPHS
    return BOX_GLYPHS
