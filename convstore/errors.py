"""Every error that convstore raises, as one tree.

::

    ConvstoreError
    ├── InvalidInput (ValueError)       refused before anything was stored or sent
    │   ├── InvalidMessage              not a Chat Completions message, or nothing to say
    │   ├── InvalidParameter            breaks a rule of the completion parameters
    │   ├── ContextTooLong              what has to be sent does not fit into `max_context`
    │   ├── UnansweredToolCalls         .calls: tool calls without a result, which no API accepts
    │   └── NotConfigured               no model, or nowhere to send the request
    ├── ConversationNotFound (LookupError)
    ├── AmbiguousReference              .candidates: the conversations that the reference could mean
    ├── Conflict                        somebody else was first
    │   ├── ConversationExists          the id or the name is taken
    │   ├── ConversationBusy            another turn is running
    │   ├── HeadMoved                   the conversation's head is not where the caller saw it
    │   ├── IdempotencyMismatch         the key was used for something else
    │   └── LeaseLost                   .turn: the reply came after another caller had taken the conversation
    ├── TurnFailed                      .turn: the turn as recorded; the model or its provider failed
    │   └── ReplyInterrupted            .partial: what came of the reply before it broke off
    └── DatabaseError
        ├── DatabaseUnavailable         cannot be opened, written or reached
        ├── SchemaOutdated              older than this release needs
        ├── SchemaTooNew                newer than this release understands
        ├── DamagedRow                  a stored row that cannot be decoded
        └── ReplyNotStored              .completion: the model answered and the database could not keep it

Each message is one line that says what happened, to which conversation, and what to do next. A message never
holds a key or a password.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convstore.messages.completion import Completion
    from convstore.values.results import Conversation, Turn


class ConvstoreError(Exception):
    """The root of every error of convstore."""


class InvalidInput(ConvstoreError, ValueError):
    """Refused before anything was stored or sent."""


class InvalidMessage(InvalidInput):
    """Not a Chat Completions message, or nothing to say."""


class InvalidParameter(InvalidInput):
    """A completion parameter that breaks a rule; the message states the rule."""


class ContextTooLong(InvalidInput):
    """What has to be sent does not fit into `max_context`, even with nothing of the history."""


class UnansweredToolCalls(InvalidInput):
    """The model asked for tools, and what they returned was not appended; `calls` are those, as it made them."""

    def __init__(self, message: str, calls: Sequence[dict[str, Any]]) -> None:
        super().__init__(message)
        self.calls = tuple(calls)


class NotConfigured(InvalidInput):
    """No model is named, or there is nowhere to send the request."""


class ConversationNotFound(ConvstoreError, LookupError):
    """No conversation of this owner answers to the reference."""


class AmbiguousReference(ConvstoreError):
    """An id prefix that several conversations share."""

    def __init__(self, message: str, candidates: Sequence[Conversation]) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class Conflict(ConvstoreError):
    """Somebody else was first."""


class ConversationExists(Conflict):
    """The id or the name that was asked for is taken."""


class ConversationBusy(Conflict):
    """Another turn of the conversation is running."""


class HeadMoved(Conflict):
    """The conversation's head is not where the caller saw it: somebody moved it, or wrote to it, meanwhile."""


class IdempotencyMismatch(Conflict):
    """The idempotency key was used before, with other input: the same request was not repeated, another was made."""


class LeaseLost(Conflict):
    """The reply came, but another caller had taken the conversation meanwhile; it is stored beside the path."""

    def __init__(self, message: str, turn: Turn) -> None:
        super().__init__(message)
        self.turn = turn


class TurnFailed(ConvstoreError):
    """The model or its provider failed. The turn stays on record, and its message will not be replayed."""

    def __init__(self, message: str, turn: Turn) -> None:
        super().__init__(message)
        self.turn = turn


class ReplyInterrupted(TurnFailed):
    """The reply broke off before its end; `partial` is the message as far as it came (None: nothing came)."""

    def __init__(self, message: str, turn: Turn, partial: dict[str, Any] | None) -> None:
        super().__init__(message, turn)
        self.partial = partial


class DatabaseError(ConvstoreError):
    """The database refused, or holds what it should not."""


class DatabaseUnavailable(DatabaseError):
    """The database cannot be opened, written or reached."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
        """Whether the same work may succeed if it is done again: the connection broke, or others were in the way."""


class SchemaOutdated(DatabaseError):
    """The schema is older than this release needs; the message names the command that upgrades it."""


class SchemaTooNew(DatabaseError):
    """The schema was upgraded by a newer release, which this one does not understand."""


class DamagedRow(DatabaseError):
    """A stored row that cannot be decoded: never skipped, never replaced by something empty."""


class ReplyNotStored(DatabaseError):
    """The model answered, and the database could not keep it: `completion` is the answer."""

    def __init__(self, message: str, completion: Completion) -> None:
        super().__init__(message)
        self.completion = completion
