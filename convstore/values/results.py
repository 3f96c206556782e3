"""Define the results that convstore returns: frozen values without a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, TypeAlias, TypeVar

from convstore.messages.completion import Usage
from convstore.messages.message import Message, extract_text
from convstore.values.identifiers import Position, Seq, TurnNumber
from convstore.values.window_report import WindowReport


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED
"""Leaves a value as it is, where None removes it."""

T = TypeVar("T")
Given: TypeAlias = T | Unchanged | None


class TurnStatus(StrEnum):
    """The state of a turn."""

    RUNNING = "running"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    """The reply was cut off or stopped; the part that came is kept."""
    FAILED = "failed"
    """No reply came. The turn's messages are kept and not sent again."""


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
    pins: tuple[Seq, ...]
    """The `seq` of the pinned messages, on the current path or off it."""
    forked_from: str | None
    """Id of the conversation that it was forked from."""
    forked_at: Seq | None
    """The `seq` of the last message shared with the origin; 0: none is shared."""
    length: int
    """Number of messages on the current path."""
    head_seq: Seq
    """The `seq` of the last message on the current path; 0: the path is empty."""
    model: str | None
    """The sticky model; else the model that the latest turn asked for; else None."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message with its place in the tree."""

    position: Position
    """1, 2, 3 … along its path."""
    seq: Seq
    """Unique and increasing in its conversation; never changes."""
    parent_seq: Seq
    """The `seq` of the message before it on its path; 0: it is the first."""
    turn: TurnNumber | None
    """The turn that stored it; None: it was appended without a turn."""
    created_at: datetime
    message: Message
    """The exact form."""
    digest: bytes
    """16 bytes that name the whole history up to and including this message."""
    context_seq: Seq
    """The nearest system or developer message before it on its path; 0: none."""
    tokens: int | None = None
    """Tokens by the store's counter; None: an earlier release stored the message."""
    back: tuple[Seq | None, ...] = (None, None, None)
    """The `seq` of ancestors at fixed distances: a position is found without reading every message before it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A text that is sent instead of the older part of a conversation."""

    turn: TurnNumber
    """The turn that wrote it."""
    up_to_seq: Seq
    """The last message that it covers; the first is the first of the path."""
    up_to_position: Position
    text: str
    tokens: int
    """Tokens by the store's counter, in the form that is sent."""
    previous_turn: TurnNumber | None
    """The turn of the summary that it replaced; None: it replaced none."""
    created_at: datetime


class Request(dict[str, Any]):
    """A request as it would be sent: the body of the call."""

    def __init__(self, body: dict[str, Any], window: WindowReport) -> None:
        super().__init__(body)
        self.window = window
        """Which messages it holds and which are left out: as the turn would record it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: the request to the model, and how it ended."""

    conversation_id: str
    seq: TurnNumber
    """1, 2, 3 … in its conversation."""
    status: TurnStatus
    base_seq: Seq
    """The head of the conversation when the turn began."""
    first_input_seq: Seq | None
    last_input_seq: Seq | None
    output_seq: Seq | None
    """The reply's message; for an interrupted turn, the partial reply."""
    purpose: str | None
    """None: a reply; `"summary"`: a summary of the conversation, which is on no path."""
    request: dict[str, Any]
    """The completion parameters that were sent."""
    window: WindowReport | None
    """Which messages were sent; None: no model was called."""
    estimated_tokens: int | None
    """Tokens of the request by the store's counter; the model's own count is `usage.prompt_tokens`."""
    message: Message | None
    """The reply in its exact form; None: the turn has no reply."""
    finish_reason: str | None
    model: str | None
    """The model that answered, as the provider named it."""
    response_id: str | None
    system_fingerprint: str | None
    usage: Usage | None
    cost: float | None
    """Cost by the prices in effect when the turn began; None: its tokens or their price are unknown."""
    latency: float | None
    """Seconds from the call to the end of the answer."""
    time_to_first_token: float | None
    """Seconds from the call to the first piece of a streamed answer."""
    error: dict[str, Any] | None
    """The error: `type`, `message`, and if known `status` and `code`."""
    attempts: tuple[dict[str, Any], ...]
    """The calls before the last one, which failed before anything was generated: `error`, `waited` (seconds)."""
    idempotency_key: str | None
    started_at: datetime
    ended_at: datetime | None
    response_fields: dict[str, Any] = field(default_factory=dict)
    """The other fields of the provider's answer, exactly: `service_tier`, `citations`, `choices[].logprobs` …"""
    notes: tuple[str, ...] = ()
    """What is odd about the reply: a value that JSON does not have and that is kept as text, a broken tool call …"""

    @property
    def text(self) -> str:
        """The reply's readable text; `""` if it has no text."""
        return extract_text(self.message) if self.message is not None else ""
