"""Make a title for a conversation that is given none: the beginning of what its first user says."""

from __future__ import annotations

from collections.abc import Sequence

from convstore.messages.message import Message, extract_text

_MOST_CHARACTERS = 60
MOST_POSITION = 2
"""Where the first message of a user may be: a system message may come first."""
_MIN_STEM_CHARACTERS = 8  # a shorter title may begin as the message by chance
_READ = 1_000  # characters of the message


def make_title(message: Message) -> str | None:
    """Return a title made of a message: its text, cut between words; None if the message has no text."""
    line = " ".join(extract_text(message)[:_READ].split())
    if len(line) <= _MOST_CHARACTERS:
        return line or None
    begin, space, _ = line[:_MOST_CHARACTERS].rpartition(" ")
    # Some scripts have no spaces, and some words are long.
    return (begin if space and len(begin) > _MOST_CHARACTERS // 2 else line[: _MOST_CHARACTERS - 1]) + "…"


def is_beginning(title: str, text: str) -> bool:
    """Return True if a title is the beginning of a text, cut as programs cut titles."""
    line = " ".join(text.split())
    stem = " ".join(title.split()).rstrip("….").rstrip()
    return bool(line) and (line == stem or (len(stem) >= _MIN_STEM_CHARACTERS and line.startswith(stem)))


def find_title(first: Sequence[Message]) -> str | None:
    """Return a title made of the first message of a user, if it is among the first of a conversation; else None."""
    for message in first[:MOST_POSITION]:
        if message["role"] == "user":
            return make_title(message)
    return None
