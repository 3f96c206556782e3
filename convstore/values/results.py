"""What convstore hands out: frozen values, made of rows, that know nothing of a database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, TypeAlias, TypeVar

from convstore.messages.codec import Message, text_of
from convstore.messages.completion import Usage


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED
"""Stands for "as it was" where None means "none"."""

T = TypeVar("T")
Given: TypeAlias = T | Unchanged | None


class TurnStatus(StrEnum):
    """Where a turn stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    """The reply broke off, or was stopped; what came of it is kept."""
    FAILED = "failed"
    """Nothing came. The turn's messages stay on record and are not replayed."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, without its messages."""

    id: str
    owner: str
    name: str | None
    """A short handle, unique for its owner."""
    title: str | None
    settings: dict[str, Any]
    """The sticky completion parameters."""
    metadata: dict[str, Any]
    window: dict[str, Any]
    """The sticky options of the window: `last`, `max_context` …"""
    pins: tuple[int, ...]
    """The `seq` of the pinned messages, on its current path or off it."""
    forked_from: str | None
    """The id of the conversation that it was forked from."""
    forked_at: int | None
    """The `seq` of the last message that it shares with that one; 0: they share none."""
    length: int
    """How many messages its current path holds."""
    head_seq: int
    """The `seq` of the last message of its current path; 0 when it has none."""
    model: str | None
    """The sticky model; else the one that the latest turn asked for; else None."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message where it stands."""

    position: int
    """1, 2, 3 … along its path."""
    seq: int
    """Unique and increasing in its conversation: what never changes about a message."""
    parent_seq: int
    """The `seq` of the message before it on its path; 0 for the first."""
    turn: int | None
    """The turn that it came with; None where it was appended by itself."""
    created_at: datetime
    message: Message
    """The exact form."""
    digest: bytes
    """Names the whole history up to and with this message."""
    context_seq: int
    """The nearest system or developer message before it; 0 for none."""
    tokens: int | None = None
    """What the store's counter made of it; None where an earlier release stored it."""
    back: tuple[int | None, ...] = (None, None, None)
    """The `seq` of ancestors at fixed distances: how convstore finds a position without reading the way to it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What stands in a window, and nowhere else, for the older part of a conversation."""

    turn: int
    """The turn that wrote it."""
    up_to_seq: int
    """It is of the path from the beginning to this message."""
    up_to_position: int
    text: str
    tokens: int
    """What the store's counter made of it, as it is sent."""
    previous_turn: int | None
    """That of the summary that it took the place of."""
    created_at: datetime


class Request(dict[str, Any]):
    """A request as it would be sent: the body of the call."""

    def __init__(self, body: dict[str, Any], window: dict[str, Any]) -> None:
        super().__init__(body)
        self.window = window
        """Which messages it holds, and what is left out: as it would be put on the turn's record."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what was asked, and how it ended."""

    conversation_id: str
    seq: int
    """1, 2, 3 … in its conversation."""
    status: TurnStatus
    base_seq: int
    """The head of the conversation when the turn began."""
    first_input_seq: int | None
    last_input_seq: int | None
    output_seq: int | None
    """The reply's message: of an interrupted turn, as far as it came."""
    purpose: str | None
    """None: a reply; `"summary"`: a summary of the conversation, which is on no path."""
    request: dict[str, Any]
    """The completion parameters that were sent."""
    window: dict[str, Any] | None
    """Which messages were sent; see `Store.preview`."""
    estimated_tokens: int | None
    """What the store's counter made of all that was sent; the model's own count is `usage.prompt_tokens`."""
    message: Message | None
    """The reply in its exact form. None: there is none, or it was not read."""
    finish_reason: str | None
    model: str | None
    """The model that answered, as the provider named it."""
    response_id: str | None
    system_fingerprint: str | None
    usage: Usage | None
    cost: float | None
    """What it cost by the prices in effect when it began; None: its tokens, or their price, were unknown."""
    latency: float | None
    """Seconds from the call to the end of the answer."""
    time_to_first_token: float | None
    """Seconds from the call to the first piece of a streamed answer."""
    error: dict[str, Any] | None
    """What went wrong: `type`, `message`, and where known `status` and `code`."""
    attempts: tuple[dict[str, Any], ...]
    """The calls before the last one, which failed before anything was generated: `error`, `waited` (seconds)."""
    idempotency_key: str | None
    started_at: datetime
    ended_at: datetime | None

    @property
    def text(self) -> str:
        """The reply's readable text; `""` where it has none."""
        return text_of(self.message) if self.message is not None else ""
