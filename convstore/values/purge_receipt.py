"""What a purge removed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class KeptByFork:
    """What a fork keeps of a conversation that was purged, because it shared it."""

    fork_id: str
    messages: int
    """Number of messages that the fork has now of its own, under the same numbers."""


@dataclass(frozen=True, slots=True)
class PurgeReceipt:
    """What the purge of one conversation removed; a dry run, what it would have removed. It has no text."""

    owner: str
    conversation_id: str
    purged_at: datetime | None
    """When it was purged; None: it was a dry run."""
    messages: int
    turns: int
    summaries: int
    attachments: int
    """Number of attachments that no other message of the owner has."""
    attachment_bytes: int
    prompt_tokens: int = 0
    """Tokens of all requests of the turns, as providers counted them; reports of usage do not have them any more."""
    completion_tokens: int = 0
    """Tokens of all replies of the turns."""
    kept_by: tuple[KeptByFork, ...] = ()
    """The forks that keep a copy of what they shared. Purge them too if it must not stay anywhere."""
    digest: str | None = None
    """The digest of the last message and of all before it, if it was asked for: it lets somebody test a guess."""
