"""Define what is known of a request that a client sent with all its messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from convstore.values.identifiers import ConversationKey, Seq, TurnNumber


@dataclass(frozen=True, slots=True)
class SentBody:
    """Who sent a request, and how it is recognised when it comes again."""

    sender: bytes
    """Digest of the API key and the user: only they go on from the reply."""
    digest: bytes | None = None
    """Of the API key, the path and the body."""
    idempotency: bytes | None = None
    """Of the API key and the caller's `Idempotency-Key`; None: it sent none."""
    metadata: Mapping[str, Any] | None = None
    """What the client says about the completion."""


@dataclass(frozen=True, slots=True)
class AskedPath:
    """The digests of the messages that were asked, from which those with the reply are made."""

    digest: bytes | None
    """Of all of them; None: it must not be stored, or the beginning of the list is not known."""
    tail: bytes | None
    """Of the last two exchanges; None: there are fewer."""
    context: bytes | None = None
    """Of the system and developer messages that the list began with."""


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A stored request."""

    key: ConversationKey
    turn: TurnNumber
    asked_seq: Seq
    """The message that the reply follows."""
    reply_seq: Seq | None
    reply_digest: bytes | None
    context: bytes | None
    body_digest: bytes | None
    is_taken: bool
    """Whether a repetition got its reply."""
    created_at: datetime
    is_at_head: bool
    """Whether the reply is the conversation's head."""
