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
"""As an argument, leaves the value as it is, where None would remove it."""

T = TypeVar("T")
Given: TypeAlias = T | Unchanged | None


class TurnStatus(StrEnum):
    """The state of a turn."""

    RUNNING = "running"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    """The reply was cut off or stopped; the partial reply is kept."""
    FAILED = "failed"
    """There is no reply. The turn's messages are kept, and later turns leave them out."""


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
    """The sticky window options: `last`, `max_context` …"""
    pins: tuple[Seq, ...]
    """The `seq` of the pinned messages, on the current path or off it."""
    forked_from: str | None
    """The id of the origin; None: the conversation is not a fork."""
    forked_at: Seq | None
    """The `seq` of the last message shared with the origin; 0: none is shared."""
    length: int
    """Number of messages on the current path."""
    head_seq: Seq
    """The `seq` of the last message on the current path; 0: the path is empty."""
    model: str | None
    """The sticky model; else the model of the latest request, also in the past that a fork shares; else None."""
    created_at: datetime
    updated_at: datetime
    has_made_title: bool = False
    """Whether the title is the beginning of the first user's message, because none was given."""
    tags: tuple[str, ...] = ()
    """In alphabetical order."""
    archived_at: datetime | None = None
    """When it was archived; None: it is in the usual list."""

    @property
    def given_title(self) -> str | None:
        """The title that the conversation was given; None: it was given none."""
        return None if self.has_made_title else self.title

    @property
    def cursor(self) -> str:
        """What `list(before=…)` takes to get the conversations after this one, even after it was changed or deleted."""
        return f"{self.updated_at.isoformat()}/{self.id}"


class RatingValue(StrEnum):
    """What a person thinks of a reply."""

    GOOD = "good"
    BAD = "bad"


class ErasureReason(StrEnum):
    """Why no import stores a conversation, or the rest of it, again."""

    PURGED = "purged"
    REDACTED = "redacted"

    @property
    def note(self) -> str:
        """What an import says about such a conversation."""
        return f"it was {self.value} here, so it was left out; an import with `again` brings it in"


@dataclass(frozen=True, slots=True)
class Rating:
    """The rating of a reply."""

    seq: Seq
    """The reply."""
    rating: RatingValue
    note: str | None
    rated_at: datetime


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message with its place in the tree."""

    position: Position
    """1, 2, 3 … along its path."""
    seq: Seq
    """Unique and increasing in its conversation; never changes."""
    parent_seq: Seq
    """The `seq` of the message before it on its path; 0: the message is the first."""
    turn: TurnNumber | None
    """The turn that stored the message; None: it was appended without a turn."""
    created_at: datetime
    message: Message
    """The message in its exact form."""
    digest: bytes
    """A digest of the path up to and including this message, 16 bytes."""
    context_seq: Seq
    """The nearest system or developer message before this one on its path; 0: none."""
    tokens: int | None = None
    """Tokens by the store's counter; None: an earlier release stored the message."""
    back: tuple[Seq | None, ...] = (None, None, None)
    """The `seq` of ancestors at fixed distances. With them a position is found without reading the whole path."""
    redacted_at: datetime | None = None
    """When its text, or a part of it, was redacted; None: it was not."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A text that is sent instead of the older part of a conversation."""

    turn: TurnNumber
    """The turn that wrote the summary."""
    up_to_seq: Seq
    """The last message that the summary covers. It covers the path from the first message on."""
    up_to_position: Position
    text: str
    tokens: int
    """Tokens of the summary as it is sent, by the store's counter."""
    previous_turn: TurnNumber | None
    """The turn that wrote the summary before this one; None: this is the first."""
    created_at: datetime


class Request(dict[str, Any]):
    """A request as it would be sent: the body of the call."""

    def __init__(self, body: dict[str, Any], window: WindowReport) -> None:
        super().__init__(body)
        self.window = window
        """Which messages the request holds and which are left out. The turn would store the same report."""


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
    """None: the model was asked for a reply; `"summary"`: for a summary, which is on no path."""
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
    """Cost by the prices in effect when the turn began; None: the tokens or their price are unknown."""
    latency: float | None
    """Seconds from the call to the end of the answer."""
    time_to_first_token: float | None
    """Seconds from the call to the first piece of a streamed answer."""
    error: dict[str, Any] | None
    """The error: `type`, `message`, and if known `status`, `code`, `server`, `advice` and `suspect`."""
    attempts: tuple[dict[str, Any], ...]
    """The calls before the last one. They failed before anything was generated: `error`, `waited` (seconds)."""
    idempotency_key: str | None
    started_at: datetime
    ended_at: datetime | None
    response_fields: dict[str, Any] = field(default_factory=dict)
    """The other fields of the provider's answer, unchanged: `service_tier`, `citations`, `choices[].logprobs` …"""
    notes: tuple[str, ...] = ()
    """What is odd about the reply, such as a broken tool call, or a value outside strict JSON that is kept as text."""

    @property
    def text(self) -> str:
        """The reply's readable text; `""` if it has no text."""
        return extract_text(self.message) if self.message is not None else ""
