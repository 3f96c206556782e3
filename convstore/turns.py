"""The shape of a turn, once: what to do before, during and after the call. Stores drive it, one with `await`.

before   `ask` checks what is asked, without a database. `begin`, in one transaction, takes the conversation, puts
         the user's messages and the turn on record, and returns what to send.
during   nothing of the database is held. An `Answer` keeps the clock, and what has come so far.
after    the `Answer` becomes an `Ending`, which `ledger.turns.end` records in one transaction; `settle` returns the
         turn, or raises what the ending means to the caller.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from convstore.completions import Completion
from convstore.errors import InvalidInput, InvalidMessage, LeaseLost, NotConfigured, ReplyInterrupted, TurnFailed
from convstore.keys import check_idempotency_key
from convstore.ledger import conversations, leases, messages
from convstore.ledger.turns import Ending, RunningTurn, by_key, insert_running, latest_asked
from convstore.messages import Message, digest, is_replayable, to_input, to_plain
from convstore.params import CALL_OPTIONS, check_names, check_parameters, merge
from convstore.records import MessageRecord, Turn, TurnStatus
from convstore.streaming import Accumulator
from convstore.window import Window, whole


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks of a conversation: checked, and not yet on record."""

    messages: list[Message]
    parameters: dict[str, Any]
    """The explicit completion parameters."""
    options: dict[str, Any]
    """Options of the HTTP call: handed on, never stored."""
    history: bool
    stream: bool
    default_model: str | None
    again: bool = False
    """Whether to ask once more what the latest turn asked, instead of `messages`."""
    key: str | None = None
    digest: bytes | None = None
    """Of what an idempotency key stands for: the messages and the explicit parameters."""


@dataclass(frozen=True, slots=True)
class Lease:
    """With what a turn takes its conversation."""

    token: str
    span: timedelta
    """How long it lasts unless it is renewed."""
    alive: leases.Alive


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn on record, and the request that it is about to make."""

    turn: RunningTurn
    request: dict[str, Any]
    options: dict[str, Any]


def ask(
    message: object,
    parameters: Mapping[str, Any],
    *,
    system: str | None = None,
    name: str | None = None,
    history: bool = True,
    stream: bool = False,
    default_model: str | None = None,
    again: bool = False,
    idempotency_key: str | None = None,
) -> Question:
    """Check what a caller asks, before anything is stored or sent.

    Raises:
        InvalidMessage: the message is none, or empty.
        InvalidParameter: a parameter, a sender's name or an idempotency key breaks a rule.
    """
    new = to_input(message, name=name) if not again else []
    check_names(new)
    if system is not None:
        new = [*to_input(system, role="system"), *new]
    checked = check_parameters(parameters)
    body = {key: value for key, value in checked.items() if key not in CALL_OPTIONS}
    return Question(
        messages=new,
        parameters=body,
        again=again,
        key=check_idempotency_key(idempotency_key),
        digest=digest(b"", {"messages": new, "parameters": body, "history": history, "again": again})
        if idempotency_key is not None
        else None,
        options={key: value for key, value in checked.items() if key in CALL_OPTIONS and value is not None},
        history=history,
        stream=stream,
        default_model=default_model,
    )


def begin(connection: Connection, owner: str, conversation_id: str, question: Question, lease: Lease) -> Begun | Turn:
    """Take the conversation and put the question on record.

    Returns:
        What to send; or, for an idempotency key that has succeeded before, the turn that it was spent on.

    Raises:
        ConversationNotFound, ConversationBusy: it cannot be taken.
        IdempotencyMismatch: the key was used for something else.
        NotConfigured: no model is named anywhere.
        InvalidInput: the sticky parameters break a rule together with the explicit ones; there is nothing to ask again.
    """
    if question.key is not None and question.digest is not None:
        done = by_key(connection, owner, conversation_id, question.key, question.digest)
        if done is not None and done.status is TurnStatus.COMPLETED:
            return done
    now = datetime.now(UTC)
    claim = leases.claim(
        connection,
        owner,
        conversation_id,
        token=lease.token,
        count=len(question.messages),
        span=lease.span,
        now=now,
        alive=lease.alive,
    )
    asked: list[MessageRecord] = []
    if question.again:
        question, asked = _again(connection, owner, conversation_id, claim, question)
    parameters = _parameters(claim.settings, question)
    head = asked[0].parent_seq if asked else claim.head_seq
    window, last = _look_back(connection, owner, conversation_id, head, question)
    if not asked:
        asked = messages.add(
            connection,
            owner,
            conversation_id,
            question.messages,
            first_seq=claim.first_seq,
            after=last,
            turn=claim.turn,
            now=now,
        )
    turn = RunningTurn(
        owner=owner,
        conversation_id=conversation_id,
        seq=claim.turn,
        token=lease.token,
        base_seq=claim.head_seq,
        first_input_seq=asked[0].seq,
        last_input=asked[-1],
        request=parameters,
        window=window.facts,
        started_at=now,
        idempotency_key=question.key,
        input_digest=question.digest,
    )
    insert_running(connection, turn)
    return Begun(turn, _request(parameters, window), question.options)


def _again(
    connection: Connection, owner: str, conversation_id: str, claim: leases.Claim, question: Question
) -> tuple[Question, list[MessageRecord]]:
    """Return the question of the latest turn, and its messages if they can be answered where they stand.

    They can while the head is where that turn found or left it: the new reply becomes a sibling of the old one. Else
    the question is asked anew, with copies of them at the head.
    """
    latest = latest_asked(connection, owner, conversation_id, before=claim.turn)
    if latest is None:
        raise InvalidInput(f"conversation {conversation_id} has no turn to try again")
    asked = messages.input_of(connection, owner, latest)
    if not asked:
        raise messages.missing(conversation_id, latest.first_input_seq or 0)
    unsaid = {key: value for key, value in latest.request.items() if key not in ("stream", "stream_options")}
    repeated = replace(
        question,
        messages=[record.message for record in asked],
        parameters=merge(unsaid, question.parameters),
        history=latest.window is None or bool(latest.window.get("history")) or asked[0].parent_seq == 0,
    )
    if claim.head_seq in (latest.base_seq, latest.output_seq, asked[0].parent_seq):
        return repeated, asked
    leases.take_numbers(connection, owner, conversation_id, len(asked))
    return repeated, []


def preview(connection: Connection, owner: str, conversation_id: str, question: Question) -> dict[str, Any]:
    """Return exactly the request that `begin` would make. Stores nothing.

    Raises:
        As `begin`, but for ConversationBusy.
    """
    conversation = conversations.get(connection, owner, conversation_id)
    parameters = _parameters(conversation.settings, question)
    window, _ = _look_back(connection, owner, conversation_id, conversation.head_seq, question)
    return _request(parameters, window)


def preview_new(settings: Mapping[str, Any], question: Question) -> dict[str, Any]:
    """Return exactly the request that a new conversation with these settings would begin with."""
    return _request(_parameters(settings, question), whole([], question.messages))


def _parameters(settings: Mapping[str, Any], question: Question) -> dict[str, Any]:
    parameters = check_parameters(merge(settings, question.parameters))
    if "model" not in parameters:
        if not question.default_model:
            raise NotConfigured(
                "no model is named: name one for this call (-m MODEL, model=…), for the conversation "
                "(`convstore set -m MODEL`), or for all (CONVSTORE_MODEL)"
            )
        parameters = {"model": question.default_model, **parameters}
    if question.stream:
        # Without being asked, a streamed answer does not say what it cost.
        parameters["stream"] = True
        parameters["stream_options"] = {"include_usage": True, **(parameters.get("stream_options") or {})}
    else:
        parameters.pop("stream_options", None)  # the API refuses it without `stream`
    return parameters


def _look_back(
    connection: Connection, owner: str, conversation_id: str, head: int, question: Question
) -> tuple[Window, MessageRecord | None]:
    if question.history:
        path = messages.path(connection, owner, conversation_id, head)
        last = path[-1] if path else None
    else:
        path, last = [], messages.at(connection, owner, conversation_id, head)
    window = whole(path, question.messages)
    if not window.messages:
        raise InvalidMessage("there is nothing to send")
    return window, last


def _request(parameters: Mapping[str, Any], window: Window) -> dict[str, Any]:
    return {"model": parameters["model"], "messages": window.messages, **parameters}


@dataclass(slots=True)
class Answer:
    """What has come of a call so far, and when."""

    _began: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _stream: Accumulator = field(default_factory=Accumulator)
    _unwritten: Accumulator = field(default_factory=Accumulator)
    _attempts: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, chunk: object) -> str:
        """Take a chunk of a stream and return the text that it adds."""
        plain = to_plain(chunk)
        with self._lock:
            text = self._stream.add(plain)
            self._unwritten.add(plain)
        if self._first is None and self._stream.started:
            self._first = time.monotonic()
        return text

    def take_unwritten(self) -> dict[str, Any] | None:
        """Return, as one chunk, what has come since this was last asked; None: nothing. For another thread."""
        with self._lock:
            if not self._unwritten.started:
                return None
            taken, self._unwritten = self._unwritten, Accumulator()
        return taken.fragment()

    def again(self, error: dict[str, Any], waited: float) -> None:
        """The call failed before anything was generated, and is made once more after `waited` seconds."""
        self._attempts.append({"error": error, "waited": round(waited, 3)})

    @property
    def attempts(self) -> int:
        """How many calls failed and were repeated."""
        return len(self._attempts)

    def whole(self, completion: Completion) -> Ending:
        """The ending of a call that was answered."""
        if completion.finish_reason is None:
            return self._unfinished(completion)
        return self._ending(TurnStatus.COMPLETED, completion, moves_head=True)

    def exhausted(self) -> Ending:
        """The ending of a stream that has no more chunks: whole only if the reply says so itself."""
        return self.whole(self._stream.completion())

    def failed(self, error: dict[str, Any]) -> Ending:
        """The ending of a call that failed, wherever it was: what came is kept with the turn, off the path."""
        completion = self._stream.completion()
        if completion.finish_reason is not None:  # only what follows the end was lost
            return self._ending(TurnStatus.COMPLETED, completion, moves_head=True)
        if _says_something(completion):
            return self._ending(TurnStatus.INTERRUPTED, completion, moves_head=False, error=error)
        return self._ending(TurnStatus.FAILED, None, moves_head=False, error=error)

    def stopped(self) -> Ending:
        """The ending of a call that the user stopped: the text that came stays on the path, as in any chat.

        Not so a tool call: cut in the middle, it must never be replayed as if it were whole.
        """
        completion = self._stream.completion()
        if completion.finish_reason is not None:
            return self._ending(TurnStatus.COMPLETED, completion, moves_head=True)
        error = {"type": "Stopped", "message": "stopped by the user"}
        if not _says_something(completion):
            return self._ending(TurnStatus.INTERRUPTED, None, moves_head=False, error=error)
        moves_head = is_replayable(completion.messages[0])
        return self._ending(TurnStatus.INTERRUPTED, completion, moves_head=moves_head, error=error)

    def _unfinished(self, completion: Completion) -> Ending:
        error = {"type": "NoFinishReason", "message": "the reply ended without its finish_reason"}
        if _says_something(completion):
            return self._ending(TurnStatus.INTERRUPTED, completion, moves_head=False, error=error)
        error = {"type": "EmptyReply", "message": "the provider closed the reply before anything came"}
        return self._ending(TurnStatus.FAILED, None, moves_head=False, error=error)

    def _ending(
        self,
        status: TurnStatus,
        completion: Completion | None,
        *,
        moves_head: bool,
        error: dict[str, Any] | None = None,
    ) -> Ending:
        return Ending(
            status=status,
            completion=completion,
            moves_head=moves_head,
            error=error,
            latency=time.monotonic() - self._began,
            time_to_first_token=self._first - self._began if self._first is not None else None,
            attempts=tuple(self._attempts),
        )


def _says_something(completion: Completion) -> bool:
    return any(value for message in completion.messages for key, value in message.items() if key != "role")


def settle(turn: Turn, held: bool, *, stopped: bool = False) -> Turn:
    """Return a turn that ended well, or that its caller stopped; raise what any other ending means.

    Raises:
        LeaseLost: another caller had taken the conversation.
        ReplyInterrupted: the reply broke off.
        TurnFailed: there is no reply.
    """
    where = f"conversation {turn.conversation_id}, turn {turn.seq}"
    if not held:
        raise LeaseLost(
            f"{where}: another caller took the conversation before this reply came; it is stored beside the path",
            turn,
        )
    if turn.status is TurnStatus.COMPLETED or stopped:
        return turn
    problem = _problem(turn.error or {})
    if turn.status is TurnStatus.INTERRUPTED:
        raise ReplyInterrupted(
            f"{where}: the reply broke off ({problem}); what came is kept with the turn and will not be replayed",
            turn,
            turn.message,
        )
    raise TurnFailed(f"{where}: {problem}; the message is kept, not answered, and will not be replayed", turn)


def _problem(error: Mapping[str, Any]) -> str:
    status = f"{error['status']} " if "status" in error else ""
    return f"{status}{error.get('type', 'error')}: {error.get('message', '')}".rstrip(": ")
