"""Turns put on record: as they begin, and as they end. What is read of them is in `turns`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, insert, null, update
from sqlalchemy.exc import IntegrityError

from convstore.db import delta_rows, message_rows
from convstore.db.engine import waits_briefly
from convstore.db.fork_sharing import Lineage
from convstore.db.tables import conversations
from convstore.db.tables import turns as table
from convstore.db.turn_rows import get, seconds
from convstore.errors import ConversationNotFound, DatabaseUnavailable
from convstore.messages.codec import to_column, to_json
from convstore.messages.completion import Completion, Usage
from convstore.messages.token_estimate import Counter, unfailing
from convstore.values.results import MessageRecord, Turn, TurnStatus

_KEY = (conversations.c.owner == bindparam("key_owner"), conversations.c.id == bindparam("key_id"))
_FREED = {"running_turn": null(), "lease_token": null(), "lease_expires_at": null()}
_HELD = (*_KEY, conversations.c.lease_token == bindparam("token"))
_NUMBERS = {"next_seq": conversations.c.next_seq + bindparam("count"), "updated_at": bindparam("now")}
_INSERT = insert(table)
_CLOSE = update(table).where(
    table.c.owner == bindparam("key_owner"),
    table.c.conversation_id == bindparam("key_id"),
    table.c.seq == bindparam("key_seq"),
)


@cache
def _end_statement(dialect: str, *, moves_head: bool) -> Any:
    moved = {"head_seq": conversations.c.next_seq, "length": bindparam("position")} if moves_head else {}
    return (
        update(conversations)
        .where(*_HELD, *waits_briefly(dialect))
        .values(**_NUMBERS, **_FREED, **moved)
        .returning(conversations.c.next_seq)
    )


@cache
def _late_statement(dialect: str) -> Any:
    return (
        update(conversations)
        .where(*_KEY, *waits_briefly(dialect))
        .values(**_NUMBERS)
        .returning(conversations.c.next_seq)
    )


@dataclass(frozen=True, slots=True)
class RunningTurn:
    """A turn that has begun: what is needed to end it."""

    owner: str
    conversation_id: str
    seq: int
    token: str
    base_seq: int
    first_input_seq: int | None
    last_input: MessageRecord | None
    """What the reply follows: the last message of the turn's input, or of the path if it has none."""
    request: dict[str, Any]
    window: dict[str, Any]
    estimated_tokens: int
    started_at: datetime
    count: Counter
    """Counts the tokens of the reply."""
    idempotency_key: str | None = None
    input_digest: bytes | None = None

    @property
    def last_input_seq(self) -> int | None:
        return self.last_input.seq if self.first_input_seq is not None and self.last_input is not None else None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ended."""

    status: TurnStatus
    completion: Completion | None
    """What the model answered, whole or (of an interrupted turn) as far as it came."""
    moves_head: bool
    """Whether the reply becomes part of the path, and is replayed from now on."""
    error: dict[str, Any] | None = None
    latency: float | None = None
    time_to_first_token: float | None = None
    window: tuple[dict[str, Any], int] | None = None
    """The facts and the estimated tokens of a window that took the place of the first."""
    attempts: tuple[dict[str, Any], ...] = ()
    """The calls before the last one: why each was repeated."""
    cost: float | None = None


def insert_running(connection: Connection, turn: RunningTurn) -> None:
    """Put a turn on record as running."""
    _insert(
        connection,
        {
            "owner": turn.owner,
            "conversation_id": turn.conversation_id,
            "seq": turn.seq,
            "status": TurnStatus.RUNNING.value,
            "base_seq": turn.base_seq,
            "first_input_seq": turn.first_input_seq,
            "last_input_seq": turn.last_input_seq,
            "idempotency_key": to_column(turn.idempotency_key),
            "input_digest": turn.input_digest,
            "request": to_json(turn.request),
            "window": to_json(turn.window),
            "requested_model": to_column(turn.request.get("model")),
            "estimated_tokens": turn.estimated_tokens,
            "started_at": turn.started_at,
        },
    )


def _insert(connection: Connection, values: dict[str, Any]) -> None:
    try:
        connection.execute(_INSERT, values)
    except IntegrityError as error:
        # Another caller spent the key after it was looked up here: when all is done again, its turn is found.
        raise DatabaseUnavailable(
            f"conversation {values['conversation_id']}: another caller just used the same idempotency key; try again",
            transient=True,
        ) from error


def end(
    connection: Connection, turn: RunningTurn, ending: Ending, now: datetime, *, has_deltas: bool
) -> tuple[Turn, bool]:
    """Record how a turn ended, with its reply, and free its conversation; fenced by the turn's lease token.

    Args:
        has_deltas: whether deltas of the reply were put on record: they have become a message, and go.

    Returns:
        The turn, and whether it still held its lease. If not, the reply is stored all the same, beside the path.

    Raises:
        ConversationNotFound: the conversation is gone.
    """
    replies = ending.completion.messages if ending.completion is not None else ()
    moves = ending.moves_head and bool(replies)
    key = {"key_owner": turn.owner, "key_id": turn.conversation_id}
    values = {**key, "token": turn.token, "count": len(replies), "now": now}
    if moves:
        values["position"] = (turn.last_input.position if turn.last_input is not None else 0) + 1
    next_seq = connection.scalar(_end_statement(connection.dialect.name, moves_head=moves), values)
    held = next_seq is not None
    keeps_output = False
    if not held:
        ended = get(connection, turn.owner, turn.conversation_id, turn.seq)
        if ended is None or ended.started_at != turn.started_at:
            # Purged, perhaps made anew under the same id, or replaced by an older state of it.
            raise ConversationNotFound(f"conversation {turn.conversation_id} no longer has this turn {turn.seq}")
        if ended.status is ending.status and ended.error == ending.error:
            return ended, True  # by this very call, whose commit had gone through when the connection broke
        # What a stop from elsewhere kept may be on the path: it stays what this turn brought.
        was_stopped = ended.error is not None and ended.error.get("type") == "Stopped"
        keeps_output = ended.output_seq is not None and (was_stopped or not replies)
        late = _late_statement(connection.dialect.name)
        next_seq = connection.scalar(late, {**key, "count": len(replies), "now": now})
    first_reply = int(next_seq) - len(replies)
    message_rows.add(
        connection,
        Lineage(turn.owner, turn.conversation_id),
        replies,
        first_seq=first_reply,
        after=turn.last_input,
        turn=turn.seq,
        now=now,
        count=unfailing(turn.count),
        siblings=True,
    )
    columns = _outcome(ending, first_reply if replies else None, now)
    if not held:
        del columns["status"], columns["error"]  # whoever took the conversation has written them
    if keeps_output:
        del columns["output_seq"], columns["finish_reason"]
    if has_deltas:
        delta_rows.remove(connection, turn.owner, turn.conversation_id, turn.seq)
    connection.execute(_CLOSE, {**key, "key_seq": turn.seq, **columns})
    return _ended(turn, ending, first_reply if replies else None, now), held


def _outcome(ending: Ending, output_seq: int | None, now: datetime) -> dict[str, Any]:
    completion = ending.completion or Completion((), None)
    usage = completion.usage or Usage()
    return {
        "status": ending.status.value,
        "output_seq": output_seq,
        "response_id": to_column(completion.response_id),
        "model": to_column(completion.model),
        "system_fingerprint": to_column(completion.system_fingerprint),
        "finish_reason": to_column(completion.finish_reason),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "usage": to_json(usage) if usage else None,
        "cost": ending.cost,
        "latency_ms": _milliseconds(ending.latency),
        "first_token_ms": _milliseconds(ending.time_to_first_token),
        "error": to_json(ending.error) if ending.error is not None else None,
        "attempts": to_json(list(ending.attempts)) if ending.attempts else None,
        **_replaced_window(ending),
        "ended_at": now,
    }


def _replaced_window(ending: Ending) -> dict[str, Any]:
    if ending.window is None:
        return {}
    facts, tokens = ending.window
    return {"window": to_json(facts), "estimated_tokens": tokens}


def _milliseconds(seconds: float | None) -> int | None:
    return round(seconds * 1000) if seconds is not None else None


def _ended(turn: RunningTurn, ending: Ending, output_seq: int | None, now: datetime) -> Turn:
    completion = ending.completion or Completion((), None)
    return Turn(
        conversation_id=turn.conversation_id,
        seq=turn.seq,
        status=ending.status,
        base_seq=turn.base_seq,
        first_input_seq=turn.first_input_seq,
        last_input_seq=turn.last_input_seq,
        output_seq=output_seq,
        purpose=None,
        request=turn.request,
        window=ending.window[0] if ending.window is not None else turn.window,
        estimated_tokens=ending.window[1] if ending.window is not None else turn.estimated_tokens,
        message=completion.messages[0] if completion.messages else None,
        finish_reason=completion.finish_reason,
        model=completion.model,
        response_id=completion.response_id,
        system_fingerprint=completion.system_fingerprint,
        usage=completion.usage,
        cost=ending.cost,
        latency=seconds(_milliseconds(ending.latency)),
        time_to_first_token=seconds(_milliseconds(ending.time_to_first_token)),
        error=ending.error,
        attempts=ending.attempts,
        idempotency_key=turn.idempotency_key,
        started_at=turn.started_at,
        ended_at=now,
    )


def insert_ended(
    connection: Connection,
    owner: str,
    id: str,
    seq: int,
    *,
    base_seq: int,
    inputs: tuple[int, int] | None,
    output_seq: int | None,
    completion: Completion | None,
    cost: float | None,
    key: str | None,
    digest: bytes | None,
    now: datetime,
) -> None:
    """Put a turn on record that is over already: no model was asked.

    Args:
        inputs: the numbers of the first and the last message that it added, if it has no output.
        completion: whose facts it keeps.
        cost: the completion's.
    """
    first, last = inputs or (None, None)
    ending = Ending(TurnStatus.COMPLETED, completion, moves_head=True, cost=cost)
    _insert(
        connection,
        {
            "owner": owner,
            "conversation_id": id,
            "seq": seq,
            "idempotency_key": to_column(key),
            "input_digest": digest,
            "base_seq": base_seq,
            "first_input_seq": first,
            "last_input_seq": last,
            "request": "{}",
            "started_at": now,
            **_outcome(ending, output_seq, now),
        },
    )


def insert_summary(
    connection: Connection,
    owner: str,
    id: str,
    seq: int,
    up_to_seq: int,
    request: Mapping[str, Any],
    estimated_tokens: int,
    ending: Ending,
    started_at: datetime,
    now: datetime,
) -> None:
    """Put a turn on record in which the model wrote a summary, or failed to: it is over, and has no messages.

    Args:
        up_to_seq: the last message that the summary is of.
        request: the body of the call.
    """
    parameters = {key: value for key, value in request.items() if key != "messages"}
    _insert(
        connection,
        {
            "owner": owner,
            "conversation_id": id,
            "seq": seq,
            "purpose": "summary",
            "base_seq": up_to_seq,
            "request": to_json(parameters),
            "requested_model": to_column(parameters.get("model")),
            "estimated_tokens": estimated_tokens,
            "started_at": started_at,
            **_outcome(ending, None, now),
        },
    )
