"""Define every error that convstore raises, as one tree.

::

    ConvstoreError
    ├── InvalidInput (ValueError)       wrong arguments; nothing was stored or sent
    │   ├── InvalidMessage              not a Chat Completions message, or an empty one
    │   ├── InvalidParameter            breaks a rule of the completion parameters
    │   ├── ContextTooLong              the smallest possible request exceeds `max_context`
    │   ├── UnansweredToolCalls         .calls: tool calls without a result, which no API accepts
    │   └── NotConfigured               .missing: no model is named, or no server to send the request to
    ├── ConversationNotFound (LookupError)
    │   └── ConversationDeleted         it can be restored
    ├── KeyNotFound (LookupError)       the owner has no such key
    ├── AmbiguousReference              .candidates: the conversations that the reference matches
    ├── Conflict                        another caller was first
    │   ├── ConversationExists          the id or the name is taken
    │   ├── ConversationBusy            another turn is running
    │   ├── HeadMoved                   the head is not where the caller saw it
    │   ├── IdempotencyMismatch         the key was used for another request
    │   ├── LeaseLost                   .turn: the reply came after another caller had taken the conversation
    │   ├── TurnLimitReached            .retry_after: the owner may not ask models for so long, through the service
    │   ├── PurgeUnfinished             .receipts, .busy, .failures, .left: what was purged, and what is left to do
    │   └── RedactionUnfinished         .redactions, .left: what was redacted, and what is left to do
    ├── TurnFailed                      .turn: the stored turn; the model or its provider failed
    │   └── ReplyInterrupted            .partial: the part of the reply that was received
    └── DatabaseError
        ├── DatabaseUnavailable         cannot be opened, written or reached
        ├── SchemaOutdated              older than this release needs
        ├── SchemaTooNew                newer than this release understands
        ├── DamagedRow                  a stored row cannot be decoded
        └── ReplyNotStored              .completion: the model answered, but the database could not store it

Each message is one line: what happened, to which thing, and what to do next. A message never holds a key or a
password.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from convstore.messages.completion import Completion
    from convstore.values.purge_receipt import PurgeReceipt
    from convstore.values.redaction_report import Redaction
    from convstore.values.results import Conversation, Turn


class ConvstoreError(Exception):
    """The base class of all errors of convstore.

    They can be pickled, copied and printed.
    """

    def __str__(self) -> str:
        # A provider's text may hold half of a character, which no stream can print.
        return super().__str__().encode("utf-8", "backslashreplace").decode()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_error, (type(self), self.args, self.__dict__)


def _restore_error(kind: type[ConvstoreError], args: tuple[Any, ...], state: dict[str, Any]) -> ConvstoreError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InvalidInput(ConvstoreError, ValueError):
    """An argument is wrong; nothing was stored or sent."""


class InvalidMessage(InvalidInput):
    """A value is not a Chat Completions message, or the message is empty."""


class InvalidParameter(InvalidInput):
    """A completion parameter breaks a rule; the text states the rule."""


class ContextTooLong(InvalidInput):
    """The request exceeds `max_context`, even without any of the history."""


class UnansweredToolCalls(InvalidInput):
    """The history holds tool calls without a result; `calls` are these calls."""

    def __init__(self, message: str, calls: Sequence[dict[str, Any]]) -> None:
        super().__init__(message)
        self.calls = tuple(calls)


class NotConfigured(InvalidInput):
    """No model is named, or there is no server to send the request to.

    `missing` is what must be named, `"model"` or `"server"`; None: something that is named cannot be used.
    """

    def __init__(self, message: str, missing: Literal["model", "server"] | None = None) -> None:
        super().__init__(message)
        self.missing = missing


class ConversationNotFound(ConvstoreError, LookupError):
    """The owner has no conversation that the reference matches."""


class ConversationDeleted(ConversationNotFound):
    """The conversation with this id is deleted. It can be restored."""


class KeyNotFound(ConvstoreError, LookupError):
    """The owner has no key of the service with this id."""


class AmbiguousReference(ConvstoreError):
    """The prefix of an id matches several conversations, the `candidates`."""

    def __init__(self, message: str, candidates: Sequence[Conversation]) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class Conflict(ConvstoreError):
    """Another caller was first."""


class ConversationExists(Conflict):
    """The id or the name of a new conversation is taken."""


class ConversationBusy(Conflict):
    """Another turn of the conversation is running."""


class HeadMoved(Conflict):
    """Another caller moved the conversation's head, or wrote to it."""


class IdempotencyMismatch(Conflict):
    """The idempotency key was used before, for another request."""


class TurnLimitReached(Conflict):
    """The owner has as many turns running, or has used as many tokens, as the service lets it.

    Nothing was stored or sent. `retry_after` is in seconds.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LeaseLost(Conflict):
    """Another caller stopped the turn, or took the conversation, before the reply came.

    The reply is stored off the path, with `turn`.
    """

    def __init__(self, message: str, turn: Turn) -> None:
        super().__init__(message)
        self.turn = turn


class PurgeUnfinished(Conflict):
    """Some conversations could not be purged, or what was purged is not overwritten in the SQLite file yet."""

    def __init__(
        self,
        message: str,
        receipts: Sequence[PurgeReceipt],
        busy: Sequence[str],
        left: Sequence[str],
        failures: Sequence[tuple[str, ConvstoreError]] = (),
    ) -> None:
        super().__init__(message)
        self.receipts = tuple(receipts)
        """What was purged."""
        self.busy = tuple(busy)
        """The ids of the conversations with a running turn, which were not purged."""
        self.left = tuple(left)
        """The steps that `finish_purge` has yet to do: `index`, `rewrite`, `log`."""
        self.failures = tuple(failures)
        """The other conversations that could not be purged, each id with its error: a damaged row, for example."""


class RedactionUnfinished(Conflict):
    """A text was redacted, and is not overwritten in the SQLite file yet, because others use the file."""

    def __init__(self, message: str, redactions: Sequence[Redaction], left: Sequence[str]) -> None:
        super().__init__(message)
        self.redactions = tuple(redactions)
        """What was redacted."""
        self.left = tuple(left)
        """The steps that `finish_purge` has yet to do: `index`, `rewrite`, `log`."""


class TurnFailed(ConvstoreError):
    """The model or its provider failed.

    The failed turn is stored as `turn`. Later turns leave out its messages; `retry` sends them again.
    """

    def __init__(self, message: str, turn: Turn) -> None:
        super().__init__(message)
        self.turn = turn


class ReplyInterrupted(TurnFailed):
    """The reply ended too early; `partial` is the part received, or None."""

    def __init__(self, message: str, turn: Turn, partial: dict[str, Any] | None) -> None:
        super().__init__(message, turn)
        self.partial = partial


class DatabaseError(ConvstoreError):
    """The database refused an operation, or holds invalid data."""


class DatabaseUnavailable(DatabaseError):
    """The database cannot be opened, written or reached."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
        """True if repeated work may succeed, because the connection broke or another caller held a lock too long."""


class SchemaOutdated(DatabaseError):
    """The schema is older than this release needs.

    The text names the command that upgrades it.
    """


class SchemaTooNew(DatabaseError):
    """A newer release upgraded the schema; this release does not understand it."""


class DamagedRow(DatabaseError):
    """A stored row cannot be decoded. Such a row is never skipped or read as empty."""

    def __init__(self, message: str, problem: str = "") -> None:
        super().__init__(message)
        self.problem = problem or message
        """The row, and what is wrong with it."""


class ReplyNotStored(DatabaseError):
    """The database could not store the model's answer, `completion`."""

    def __init__(self, message: str, completion: Completion) -> None:
        super().__init__(message)
        self.completion = completion
