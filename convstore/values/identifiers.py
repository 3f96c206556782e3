"""Define types for keys and numbers, so that a type checker finds swapped ones."""

from __future__ import annotations

import secrets
import unicodedata
from dataclasses import dataclass
from typing import NewType

Seq = NewType("Seq", int)
"""Number of a message: unique and increasing in its conversation. 0: before the first message."""

Position = NewType("Position", int)
"""Place of a message on its path: 1, 2, 3 … 0: before the first message."""

TurnNumber = NewType("TurnNumber", int)
"""Number of a turn in its conversation: 1, 2, 3 …"""

NO_SEQ, NO_POSITION = Seq(0), Position(0)

# No vowels, so that an id is not a word; no 0, 1 and l, which look like other characters. 12 of them have 57 bits.
_ID_ALPHABET = "23456789bcdfghjkmnpqrstvwxyz"
_ID_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class ConversationKey:
    """The owner and the id of a conversation, which name it in a database."""

    owner: str
    id: str


def make_conversation_id() -> str:
    """Return a new id.

    It is random from its first character, so that its first few characters are enough to find the conversation.
    """
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARACTERS))


def spell_id(number: int) -> str:
    """Return an id of the same form, made of the lowest 57 bits of a number."""
    letters = []
    for _ in range(_ID_CHARACTERS):
        number, place = divmod(number, len(_ID_ALPHABET))
        letters.append(_ID_ALPHABET[place])
    return "".join(letters)


def compose_letters(name: str) -> str:
    """Return a name with each letter and its accents as one character (NFC), as most keyboards type them."""
    return unicodedata.normalize("NFC", name) if not name.isascii() else name
