"""The messages and turns of a database at one moment, as the checks look for them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from convstore.db.tables import conversations, messages, turns

Place = tuple[str, str]
"""An owner and the id of a conversation."""

_MESSAGE_COLUMNS = ("owner", "conversation_id", "seq", "turn_seq", "role", "content")
_TURN_COLUMNS = (
    *("owner", "conversation_id", "seq", "status", "idempotency_key", "first_input_seq", "last_input_seq"),
    *("output_seq", "purpose", "response_id", "window", "error", "ended_at"),
)


@dataclass(frozen=True, slots=True)
class Said:
    """A stored message."""

    owner: str
    conversation: str
    seq: int
    turn: int | None
    role: str
    text: str
    """Empty if the content is not a text."""


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A stored turn."""

    owner: str
    conversation: str
    seq: int
    status: str
    key: str | None
    first_input: int | None
    last_input: int | None
    output: int | None
    purpose: str | None
    response_id: str | None
    window: str | None
    error: str | None
    ended_at: datetime | None

    @property
    def request(self) -> int | None:
        """The number of the request that was answered; None: no answer told it."""
        return int(self.response_id.rpartition("-")[2]) if self.response_id is not None else None

    @property
    def was_taken(self) -> bool:
        return self.error is not None and json.loads(self.error)["type"] == "Abandoned"

    @property
    def where(self) -> str:
        return f"owner {self.owner!r}, conversation {self.conversation!r}, turn {self.seq}"


@dataclass(slots=True)
class Snapshot:
    """The rows, by what the checks ask for."""

    conversations: dict[Place, Any]
    """By place: when it was written last."""
    messages: dict[tuple[str, str, int], Said] = field(default_factory=dict)
    turns: dict[tuple[str, str, int], StoredTurn] = field(default_factory=dict)
    of_turn: dict[tuple[str, str, int], list[Said]] = field(default_factory=lambda: defaultdict(list))
    texts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The number of messages with a role and a text, in all conversations."""

    def find_input_texts(self, turn: StoredTurn) -> list[str] | None:
        """Return the texts of the messages of a turn's input; None: not all of them are in its own conversation."""
        if turn.first_input is None or turn.last_input is None:
            return []
        found = [
            self.messages.get((turn.owner, turn.conversation, seq))
            for seq in range(turn.first_input, turn.last_input + 1)
        ]
        texts = [said.text for said in found if said is not None]
        return texts if len(texts) == len(found) else None


def read_snapshot(connection: Connection) -> Snapshot:
    """Read all conversations, messages and turns."""
    dated = connection.execute(select(conversations.c.owner, conversations.c.id, conversations.c.updated_at)).all()
    snapshot = Snapshot({(row.owner, row.id): row.updated_at for row in dated})
    for row in connection.execute(select(*(messages.c[name] for name in _MESSAGE_COLUMNS))):
        said = Said(row.owner, row.conversation_id, row.seq, row.turn_seq, row.role, row.content or "")
        snapshot.messages[said.owner, said.conversation, said.seq] = said
        snapshot.texts[said.role, said.text] += 1
        if said.turn is not None:
            snapshot.of_turn[said.owner, said.conversation, said.turn].append(said)
    for row in connection.execute(select(*(turns.c[name] for name in _TURN_COLUMNS))):
        turn = StoredTurn(*row)
        snapshot.turns[turn.owner, turn.conversation, turn.seq] = turn
    return snapshot
