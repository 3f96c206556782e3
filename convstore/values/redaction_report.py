"""Define what a redaction reports: where a text was, and where it still is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from convstore.values.identifiers import Position, Seq


class RedactionExtent(StrEnum):
    """How much of a message was redacted."""

    MESSAGE = "message"
    PART = "part"


@dataclass(frozen=True, slots=True)
class RedactionMark:
    """What is noted of a redacted message."""

    extent: RedactionExtent
    redacted_at: datetime


@dataclass(frozen=True, slots=True)
class MessagePlace:
    """Where a message is kept."""

    conversation: str
    """The id of the conversation that keeps it: of a fork's shared past, an origin's."""
    seq: Seq
    position: Position
    role: str


@dataclass(frozen=True, slots=True)
class Redaction:
    """What a redaction did, or would do."""

    conversation: str
    position: Position
    extent: RedactionExtent
    redacted: tuple[MessagePlace, ...]
    """The message and its copies; with `everywhere`, also the other messages where the text occurred."""
    others: tuple[MessagePlace, ...]
    """Other messages of the owner where the text still occurs."""
    digests: int = 0
    """Number of messages with a new digest: the redacted ones and all that follow them, in forks too."""
    turns: int = 0
    """Number of turns from which something was removed: stored requests, errors, digests of the input."""
    summaries: int = 0
    """Number of summaries that were removed or changed."""
    conversations: int = 0
    """Number of conversations with a changed title, name, tag, setting, metadata or rating."""
    attachments: int = 0
    """Number of files that were removed, because no other message has them."""
    redacted_at: datetime | None = None
    """None: nothing was done (`dry_run`)."""
