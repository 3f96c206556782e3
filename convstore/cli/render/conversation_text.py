"""Format a conversation as text: its id, name, title, settings and head."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from convstore.cli.render.json_forms import conversation_to_json
from convstore.cli.render.message_text import take_first_words
from convstore.cli.render.output_streams import format_json, write_json, write_terminal_note

if TYPE_CHECKING:
    from convstore.messages.message import Message
    from convstore.store.read_methods import ReadMethods
    from convstore.values.results import Conversation, MessageRecord

_MESSAGE_WIDTH = 60  # columns for the first words of a message
_PAGE_MESSAGES = 20


def describe_conversation(conversation: Conversation) -> str:
    """Return the id, the name and the title of a conversation."""
    return " ".join(part for part in (conversation.id, conversation.name, conversation.title) if part)


def describe_settings(conversation: Conversation) -> str:
    """Return a conversation's sticky parameters and window options, and its origin."""
    kept = {**conversation.settings, **conversation.window}
    if conversation.forked_from is not None:
        kept["forked from"] = conversation.forked_from
    return " · ".join(f"{key} {_format_value(value)}" for key, value in kept.items())


def print_change(conversation: Conversation, change: str, *, as_json: bool) -> None:
    """Print that a conversation was changed: as JSON, or else a note if stderr is a terminal.

    Args:
        change: what was done, such as `archived`.
    """
    if as_json:
        write_json(conversation_to_json(conversation))
    else:
        write_terminal_note(f"{change} {describe_conversation(conversation)}")


def print_head(store: ReadMethods, conversation: Conversation, *, as_json: bool) -> None:
    """Print where the head is after `undo`, `redo` or `checkout`.

    Print the conversation as JSON, or else a note if stderr is a terminal.
    """
    if as_json:
        write_json(conversation_to_json(conversation))
    elif sys.stderr.isatty():
        last = store.messages(conversation.id, limit=1)
        place = f"at {last[0].position} {_label_message(last[0].message)}" if last else "before the first message"
        write_terminal_note(f"the head is {place}")


def print_pin(store: ReadMethods, conversation: Conversation, position: int, change: str, *, as_json: bool) -> None:
    """Print which message was pinned or unpinned.

    Print the conversation as JSON, or else a note if stderr is a terminal.

    Args:
        change: `pinned` or `unpinned`.
    """
    if as_json:
        write_json(conversation_to_json(conversation))
    elif sys.stderr.isatty():
        write_terminal_note(f"{change}: {position} {_label_message(store.at(conversation.id, position).message)}")


def find_first_undone(store: ReadMethods, conversation: Conversation, page: list[MessageRecord]) -> str:
    """Return the first words of the first user message that an undo took off the path.

    Args:
        conversation: the conversation after the undo.
        page: the end of the path before the undo.
    """
    head = conversation.length
    while page and page[0].position > head + 1:
        page = [*store.messages(conversation.id, before=page[0].seq, limit=max(_PAGE_MESSAGES, len(page))), *page]
    questions = [record for record in page if record.position > head and record.message["role"] == "user"]
    return take_first_words(questions[0].message, _MESSAGE_WIDTH) if questions else ""


def _label_message(message: Message) -> str:
    return f"{message['role']}: {take_first_words(message, _MESSAGE_WIDTH)}"


def _format_value(value: object) -> str:
    return value if isinstance(value, str) else format_json(value)
