"""Define a stored completion, as clients of the service ask for it, and which ones they list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from convstore.messages.message import Message
from convstore.values.identifiers import Seq, TurnNumber
from convstore.values.results import Turn


@dataclass(frozen=True, slots=True)
class CompletionPlace:
    """Where a completion is stored, and its place in a list."""

    id: str
    """As the client got it."""
    conversation_id: str
    turn: TurnNumber
    asked_seq: Seq
    """The message that it answers."""
    metadata: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """A completion that was recorded for a client."""

    place: CompletionPlace
    turn: Turn
    replies: tuple[Message, ...]
    """The message of each choice."""


@dataclass(frozen=True, slots=True)
class CompletionFilter:
    """Which completions are listed."""

    limit: int
    after: str | None = None
    """The id of the completion before the first one; None: from the beginning."""
    is_descending: bool = False
    model: str | None = None
    """The model that answered, or that was asked."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Each of these values is in the metadata."""
