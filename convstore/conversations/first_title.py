"""Make a title for a conversation that is given none: the beginning of what its first user says."""

from __future__ import annotations

from collections.abc import Sequence

from convstore.db.conversation_writes import set_made_title
from convstore.db.unit_of_work import UnitOfWork
from convstore.messages.message import Message, extract_text
from convstore.values.identifiers import ConversationKey
from convstore.values.results import MessageRecord

_MOST_CHARACTERS = 60
_MOST_POSITION = 2  # a system message may come first
_READ = 1_000  # characters of the message


def make_title(message: Message) -> str | None:
    """Return a title made of a message: its first line, cut between words; None if the message has no text."""
    lines = (" ".join(line.split()) for line in extract_text(message)[:_READ].splitlines())
    line = next((line for line in lines if line), None)
    if line is None or len(line) <= _MOST_CHARACTERS:
        return line
    begin, space, _ = line[:_MOST_CHARACTERS].rpartition(" ")
    # Some scripts have no spaces, and some words are long.
    return (begin if space and len(begin) > _MOST_CHARACTERS // 2 else line[: _MOST_CHARACTERS - 1]) + "…"


def find_title(first: Sequence[Message]) -> str | None:
    """Return a title made of the first message of a user, if it is among the first of a conversation; else None."""
    for message in first[:_MOST_POSITION]:
        if message["role"] == "user":
            return make_title(message)
    return None


def add_first_title(work: UnitOfWork, key: ConversationKey, added: Sequence[MessageRecord]) -> None:
    """Keep the title that the first user's message makes.

    Args:
        added: messages that were just stored.
    """
    title = find_title([record.message for record in added if record.position <= _MOST_POSITION])
    if title is not None:
        set_made_title(work.connection, key, title)
