"""Name the types of keys and numbers, so that a type checker sees two swapped."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import NewType

Seq = NewType("Seq", int)
"""Number of a message: unique and increasing in its conversation. 0: before the first message."""

Position = NewType("Position", int)
"""Place of a message on its path: 1, 2, 3 … 0: before the first message."""

TurnNumber = NewType("TurnNumber", int)
"""Number of a turn in its conversation: 1, 2, 3 …"""

NO_SEQ, NO_POSITION = Seq(0), Position(0)

# Without vowels there are no words; without 0, 1 and l no confusion. 12 of 28 characters are 57 bits.
_ID_ALPHABET = "23456789bcdfghjkmnpqrstvwxyz"
_ID_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class ConversationKey:
    """What names one conversation in a database: its owner and its id."""

    owner: str
    id: str


def make_conversation_id() -> str:
    """Return a new id, random from its first character: a few typed ones find it."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARACTERS))
