"""What an export writes, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convstore.values.results import Conversation, MessageRecord, Rating, Turn, TurnStatus


@dataclass(frozen=True, slots=True)
class ExportedMessage:
    """A message, and what is known of it."""

    record: MessageRecord
    on_path: bool
    """Whether it is on the current path."""
    status: TurnStatus | None
    """The state of the turn that it is the reply of; None: it is no turn's reply."""
    model: str | None
    """The model that wrote it; None: it is no reply, or this is not known."""
    rating: Rating | None


@dataclass(frozen=True, slots=True)
class ExportedConversation:
    """A conversation with all that is to be written of it."""

    conversation: Conversation
    messages: Sequence[ExportedMessage]
    """By `seq`, so that each comes after the message that it follows. Only those on the path, if only that is asked
    for."""
    turns: Sequence[Turn]
    """Oldest first."""
