"""Define the values with which a turn is ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from convstore.messages.completion import Completion
from convstore.values.client_request import AskedPath
from convstore.values.identifiers import NO_POSITION, ConversationKey, Position, Seq, TurnNumber
from convstore.values.results import MessageRecord, TurnStatus
from convstore.values.window_report import WindowReport


@dataclass(frozen=True, slots=True)
class RunningTurn:
    """A turn that has begun, with everything that is needed to end it."""

    key: ConversationKey
    seq: TurnNumber
    token: str
    """The lease token under which the turn holds its conversation."""
    base_seq: Seq
    first_input_seq: Seq | None
    last_input: MessageRecord | None
    """The message that the reply follows: the last input message, or the head if the turn has no input."""
    request: dict[str, Any]
    """The completion parameters."""
    window: WindowReport
    estimated_tokens: int | None
    """None: a client chose what is sent, and nothing was counted."""
    started_at: datetime
    idempotency_key: str | None = None
    input_digest: bytes | None = None
    asked: AskedPath | None = None
    """What a client of the service asked, if it sent all messages: the reply is found by it."""

    @property
    def last_input_seq(self) -> Seq | None:
        return self.last_input.seq if self.first_input_seq is not None and self.last_input is not None else None

    @property
    def reply_position(self) -> Position:
        """The position of the reply."""
        return Position((self.last_input.position if self.last_input is not None else NO_POSITION) + 1)


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """How a turn ended."""

    status: TurnStatus
    completion: Completion | None
    """The model's answer: complete, or the part that was received before the interruption."""
    moves_head: bool
    """True: the reply becomes part of the path, and later turns send it."""
    error: dict[str, Any] | None = None
    latency: float | None = None
    """Seconds."""
    time_to_first_token: float | None = None
    """Seconds."""
    window: tuple[WindowReport, int] | None = None
    """Report and estimated tokens of a smaller window that replaced the first one."""
    attempts: tuple[dict[str, Any], ...] = ()
    """The calls before the last one, and why each was repeated."""
    notes: tuple[str, ...] = ()
    """What is odd about the reply."""


@dataclass(frozen=True, slots=True)
class EndedTurn:
    """A turn that ended before it is stored: appended messages, or a summary."""

    key: ConversationKey
    seq: TurnNumber
    base_seq: Seq
    request: dict[str, Any]
    """The completion parameters; empty if no model was called."""
    purpose: str | None = None
    first_input_seq: Seq | None = None
    last_input_seq: Seq | None = None
    output_seq: Seq | None = None
    estimated_tokens: int | None = None
    idempotency_key: str | None = None
    input_digest: bytes | None = None
    started_at: datetime | None = None
    """None: the turn began when it was stored."""
