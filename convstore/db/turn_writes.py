"""Write rows of turns, and compute what a turn cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, insert, update
from sqlalchemy.exc import IntegrityError

from convstore.db.connection import Connection
from convstore.db.tables import turns as table
from convstore.db.turn_rows import to_seconds
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import DatabaseUnavailable
from convstore.messages.completion import Completion, Usage
from convstore.messages.storable_text import to_column, to_json
from convstore.values.identifiers import Seq
from convstore.values.results import Turn, TurnStatus
from convstore.values.turn_outcome import EndedTurn, RunningTurn, TurnOutcome

_INSERT = insert(table)
_CLOSE = update(table).where(
    table.c.owner == bindparam("key_owner"),
    table.c.conversation_id == bindparam("key_id"),
    table.c.seq == bindparam("key_seq"),
)
# Days are summed a day after they end. Half of that is for hosts with clocks that differ.
_LATE = timedelta(hours=12)
_NO_COMPLETION = Completion((), None)


def insert_running_turn(connection: Connection, turn: RunningTurn) -> None:
    """Insert a turn as running."""
    _insert(
        connection,
        {
            "owner": turn.key.owner,
            "conversation_id": turn.key.id,
            "seq": turn.seq,
            "status": TurnStatus.RUNNING.value,
            "base_seq": turn.base_seq,
            "first_input_seq": turn.first_input_seq,
            "last_input_seq": turn.last_input_seq,
            "idempotency_key": to_column(turn.idempotency_key),
            "input_digest": turn.input_digest,
            "request": to_json(turn.request),
            "window": to_json(turn.window.to_json_object()),
            "requested_model": to_column(turn.request.get("model")),
            "estimated_tokens": turn.estimated_tokens,
            "started_at": turn.started_at,
        },
    )


def insert_ended_turn(work: UnitOfWork, turn: EndedTurn, outcome: TurnOutcome) -> None:
    """Insert a turn that is over already."""
    started_at = turn.started_at or work.now
    cost = _compute_cost(work, outcome.completion, turn.request, started_at)
    _insert(
        work.connection,
        {
            "owner": turn.key.owner,
            "conversation_id": turn.key.id,
            "seq": turn.seq,
            "purpose": turn.purpose,
            "idempotency_key": to_column(turn.idempotency_key),
            "input_digest": turn.input_digest,
            "base_seq": turn.base_seq,
            "first_input_seq": turn.first_input_seq,
            "last_input_seq": turn.last_input_seq,
            "request": to_json(turn.request),
            "requested_model": to_column(turn.request.get("model")),
            "estimated_tokens": turn.estimated_tokens,
            "started_at": started_at,
            **_make_outcome_columns(outcome, turn.output_seq, cost),
            "ended_at": work.now,
        },
    )
    forget_late_sums(work.connection, turn.key.owner, started_at, work.now)


def forget_late_sums(connection: Connection, owner: str, started_at: datetime, now: datetime) -> None:
    """Delete the sums of the day on which a turn began, if the turn ends so late that they may exist."""
    if now - started_at >= _LATE:
        from convstore.db.daily_usage import forget_day  # no other turn needs it

        forget_day(connection, owner, started_at)


def _insert(connection: Connection, values: dict[str, Any]) -> None:
    try:
        connection.execute(_INSERT, values)
    except IntegrityError as error:
        # Another caller used the key after this one had looked it up. The repeated transaction finds that turn.
        raise DatabaseUnavailable(
            f"conversation {values['conversation_id']!r}: another caller just used the same idempotency key; try again",
            transient=True,
        ) from error


def close_turn(
    work: UnitOfWork, turn: RunningTurn, outcome: TurnOutcome, output_seq: Seq | None, *, keep: frozenset[str]
) -> Turn:
    """Write how a running turn ended, and return the turn.

    Args:
        output_seq: the `seq` of the first reply; None: there is no reply.
        keep: columns that another caller has written and that stay as they are.
    """
    cost = _compute_cost(work, outcome.completion, turn.request, turn.started_at)
    columns = {**_make_outcome_columns(outcome, output_seq, cost), "ended_at": work.now}
    values = {name: value for name, value in columns.items() if name not in keep}
    key = {"key_owner": turn.key.owner, "key_id": turn.key.id, "key_seq": turn.seq}
    work.connection.execute(_CLOSE, {**key, **values})
    forget_late_sums(work.connection, turn.key.owner, turn.started_at, work.now)
    return _make_turn(work, turn, outcome, output_seq, cost)


def _compute_cost(
    work: UnitOfWork, completion: Completion | None, request: dict[str, Any], started_at: datetime
) -> float | None:
    if completion is None:
        return None
    return work.get_prices().compute_cost(completion.usage, completion.model, request.get("model"), started_at)


def _make_outcome_columns(outcome: TurnOutcome, output_seq: Seq | None, cost: float | None) -> dict[str, Any]:
    completion = outcome.completion or _NO_COMPLETION
    usage = completion.usage or Usage()
    return {
        "status": outcome.status.value,
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
        "cost": cost,
        "latency_ms": _to_milliseconds(outcome.latency),
        "first_token_ms": _to_milliseconds(outcome.time_to_first_token),
        "error": to_json(outcome.error) if outcome.error is not None else None,
        "attempts": to_json(list(outcome.attempts)) if outcome.attempts else None,
        "response_fields": to_json(completion.fields) if completion.fields else None,
        "notes": to_json(list(outcome.notes)) if outcome.notes else None,
        **_make_window_columns(outcome),
    }


def _make_window_columns(outcome: TurnOutcome) -> dict[str, Any]:
    if outcome.window is None:
        return {}
    report, tokens = outcome.window
    return {"window": to_json(report.to_json_object()), "estimated_tokens": tokens}


def _to_milliseconds(seconds: float | None) -> int | None:
    return round(seconds * 1000) if seconds is not None else None


def _make_turn(
    work: UnitOfWork, turn: RunningTurn, outcome: TurnOutcome, output_seq: Seq | None, cost: float | None
) -> Turn:
    completion = outcome.completion or _NO_COMPLETION
    window, estimated_tokens = outcome.window or (turn.window, turn.estimated_tokens)
    return Turn(
        conversation_id=turn.key.id,
        seq=turn.seq,
        status=outcome.status,
        base_seq=turn.base_seq,
        first_input_seq=turn.first_input_seq,
        last_input_seq=turn.last_input_seq,
        output_seq=output_seq,
        purpose=None,
        request=turn.request,
        window=window,
        estimated_tokens=estimated_tokens,
        message=completion.messages[0] if completion.messages else None,
        finish_reason=completion.finish_reason,
        model=completion.model,
        response_id=completion.response_id,
        system_fingerprint=completion.system_fingerprint,
        usage=completion.usage,
        cost=cost,
        latency=to_seconds(_to_milliseconds(outcome.latency)),
        time_to_first_token=to_seconds(_to_milliseconds(outcome.time_to_first_token)),
        error=outcome.error,
        attempts=outcome.attempts,
        idempotency_key=turn.idempotency_key,
        started_at=turn.started_at,
        ended_at=work.now,
        response_fields=dict(completion.fields),
        notes=outcome.notes,
    )
