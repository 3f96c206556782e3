"""Define the results that convstore returns: frozen values without a database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, TypeAlias, TypeVar

from convstore.messages.completion import Usage
from convstore.messages.message import Message, extract_text


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED
"""The default of arguments that change something, where None means "remove it"."""

T = TypeVar("T")
Given: TypeAlias = T | Unchanged | None


class TurnStatus(StrEnum):
    """The state of a turn."""

    RUNNING = "running"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    """The reply ended too early or was stopped; the part received is stored."""
    FAILED = "failed"
    """No reply was received. The turn's messages stay stored and are not sent again."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, without its messages."""

    id: str
    owner: str
    name: str | None
    """A short name, unique for the owner."""
    title: str | None
    settings: dict[str, Any]
    """The sticky completion parameters."""
    metadata: dict[str, Any]
    window: dict[str, Any]
    """The sticky options of the window: `last`, `max_context` …"""
    pins: tuple[int, ...]
    """The `seq` of each pinned message, on the current path or off it."""
    forked_from: str | None
    """The id of the conversation that this one was forked from."""
    forked_at: int | None
    """The `seq` of the last message shared with that conversation; 0 if they share none."""
    length: int
    """How many messages the current path holds."""
    head_seq: int
    """The `seq` of the last message of the current path; 0 if it is empty."""
    model: str | None
    """The sticky model, else the one that the latest turn requested, else None."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A stored message and its place in the tree."""

    position: int
    """Its place on its path: 1, 2, 3 …"""
    seq: int
    """Unique and increasing in its conversation; it never changes."""
    parent_seq: int
    """The `seq` of the message before it on its path; 0 for the first."""
    turn: int | None
    """The turn that stored it; None if it was appended."""
    created_at: datetime
    message: Message
    """The exact form."""
    digest: bytes
    """Names the whole history up to and including this message."""
    context_seq: int
    """The `seq` of the nearest system or developer message before it; 0 if there is none."""
    tokens: int | None = None
    """Its count by the store's token counter; None if an earlier release stored it."""
    back: tuple[int | None, ...] = (None, None, None)
    """The `seq` of ancestors at fixed distances, to find a position without reading the path to it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary that replaces the older part of a conversation in a window."""

    turn: int
    """The turn in which the model wrote it."""
    up_to_seq: int
    """The `seq` of the last message that it covers; it covers the path from the beginning."""
    up_to_position: int
    text: str
    tokens: int
    """Its count by the store's token counter, in the form in which it is sent."""
    previous_turn: int | None
    """The turn of the summary that it replaced; None if it is the first."""
    created_at: datetime


class Request(dict[str, Any]):
    """The body of a request as it would be sent."""

    def __init__(self, body: dict[str, Any], window: dict[str, Any]) -> None:
        super().__init__(body)
        self.window = window
        """Which messages it holds and what is left out, as the turn would store it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: the input, the request, and how it ended."""

    conversation_id: str
    seq: int
    """1, 2, 3 … in its conversation."""
    status: TurnStatus
    base_seq: int
    """The head of the conversation when the turn began."""
    first_input_seq: int | None
    last_input_seq: int | None
    output_seq: int | None
    """The reply's message; for an interrupted turn, the partial reply."""
    purpose: str | None
    """None for a reply; `"summary"` for a summary of the conversation, which is on no path."""
    request: dict[str, Any]
    """The completion parameters that were sent."""
    window: dict[str, Any] | None
    """Which messages were sent; see `Store.preview`."""
    estimated_tokens: int | None
    """The count of all that was sent, by the store's token counter; the model's own is `usage.prompt_tokens`."""
    message: Message | None
    """The reply in its exact form; None if it does not exist or was not read."""
    finish_reason: str | None
    model: str | None
    """The model that answered, as the provider named it."""
    response_id: str | None
    system_fingerprint: str | None
    usage: Usage | None
    cost: float | None
    """What it cost at the prices in effect when it began; None if its tokens or their price are unknown."""
    latency: float | None
    """Seconds from the call to the end of the answer."""
    time_to_first_token: float | None
    """Seconds from the call to the first piece of a streamed answer; None if it was not streamed."""
    error: dict[str, Any] | None
    """The error: `type` and `message`; `status` and `code` if it has them."""
    attempts: tuple[dict[str, Any], ...]
    """The calls before the last one, which failed before anything was generated: `error` and `waited` (seconds)."""
    idempotency_key: str | None
    started_at: datetime
    ended_at: datetime | None

    @property
    def text(self) -> str:
        """The readable text of the reply, or "" if it has none."""
        return extract_text(self.message) if self.message is not None else ""
