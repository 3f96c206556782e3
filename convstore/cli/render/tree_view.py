"""What `show --tree` prints: every message of a conversation, on its path or off it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.render import output, tree

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Conversation, MessageRecord, Summary

_WIDTH = 100  # columns where no terminal says how many it has
_SAID_OF = {"running": "being answered", "unanswered": "not answered"}


def print_tree(store: Store, conversation: Conversation) -> None:
    """Draw the tree."""
    records = store.tree(conversation.id)
    remarks = _remarks(conversation, _statuses(store, conversation, records), store.summary(conversation.id))
    on_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if on_terminal else _WIDTH
    coloured = output.colours(sys.stdout)
    for line in tree.draw(records, conversation.head_seq, remarks, width, _glyphs()):
        sys.stdout.write((click.style(line.text, dim=True) if coloured and not line.on_path else line.text) + "\n")


def tree_form(store: Store, conversation: Conversation) -> list[dict[str, Any]]:
    """Return the JSON form of every message, with its place in the tree."""
    from convstore.cli.render.json_forms import message_form

    records = store.tree(conversation.id)
    statuses = _statuses(store, conversation, records)
    on_path = tree.path(records, conversation.head_seq)
    return [
        {
            **message_form(record),
            "parent_seq": record.parent_seq,
            "on_path": record.seq in on_path,
            "pinned": record.seq in conversation.pins,
            "status": statuses.get(record.seq),
        }
        for record in records
    ]


def _statuses(store: Store, conversation: Conversation, records: Sequence[MessageRecord]) -> dict[int, str]:
    """Return of replies that broke off, and of questions without a reply, how their turns came out."""
    found = dict.fromkeys(store.interrupted(conversation.id, records), "interrupted")
    asked = {
        record.seq: record.turn
        for record in tree.leaves(records)
        if record.turn is not None and record.message["role"] != "assistant"
    }
    latest = store.turns(conversation.id, limit=1) if asked else []
    many = latest[0].seq - min(asked.values()) + 1 if latest else 0
    turns = {turn.seq: turn.status.value for turn in store.turns(conversation.id, limit=many)} if many > 0 else {}
    on_path = tree.path(records, conversation.head_seq)
    for seq, turn in asked.items():
        # The turns of what is shared with another conversation are that one's.
        status = turns.get(turn, "completed" if seq in on_path else "unanswered")
        if status != "completed":
            found[seq] = status
    return found


def _remarks(conversation: Conversation, statuses: Mapping[int, str], summary: Summary | None) -> dict[int, str]:
    said: dict[int, list[str]] = {seq: [_SAID_OF.get(status, status)] for seq, status in statuses.items()}
    for seq in conversation.pins:
        said.setdefault(seq, []).append("pinned")
    if conversation.forked_at:
        origin = output.one_line(str(conversation.forked_from))
        said.setdefault(conversation.forked_at, []).append(f"forked from {origin} here")
    if summary is not None:
        said.setdefault(summary.up_to_seq, []).append("summarised up to here")
    return {seq: f"({', '.join(words)})" for seq, words in said.items()}


def _glyphs() -> tree.Glyphs:
    try:
        tree.BOXES.all.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return tree.ASCII
    return tree.BOXES
