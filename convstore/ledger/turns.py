"""Turns: begun, ended, read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, null, select, update
from sqlalchemy.exc import IntegrityError

from convstore.completions import Completion, Usage
from convstore.errors import ConversationNotFound, DamagedRow, DatabaseUnavailable, IdempotencyMismatch
from convstore.ledger import deltas, messages
from convstore.ledger.database import EVERYTHING, waits_briefly
from convstore.ledger.lineage import Lineage
from convstore.ledger.models import conversations
from convstore.ledger.models import messages as message_table
from convstore.ledger.models import turns as table
from convstore.messages import Message, StoredMessage, from_column, to_column, to_json
from convstore.records import MessageRecord, Turn, TurnStatus
from convstore.tokens import ENOUGH, Counter, estimate

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


_OUTPUT = (message_table.c.role, message_table.c.name, message_table.c.content, message_table.c.extra)
_READ = (
    select(table, *(column.label(f"output_{column.name}") for column in _OUTPUT))
    .select_from(table)
    .outerjoin(
        message_table,
        (message_table.c.owner == table.c.owner)
        & (message_table.c.conversation_id == table.c.conversation_id)
        & (message_table.c.seq == table.c.output_seq),
    )
    .where(table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("id"))
    .order_by(table.c.seq.desc())
)
_ONE = _READ.where(table.c.seq == bindparam("seq"))
_LATEST = _READ.limit(bindparam("most"))
_LATEST_BEFORE = _LATEST.where(table.c.seq < bindparam("before"))


_LATEST_ASKED = _LATEST_BEFORE.where(table.c.window.is_not(None), table.c.purpose.is_(None))
_MOST_SAMPLES, _LATEST_OF_OWNER = 16, 64
_SAMPLE_COLUMNS = (table.c.estimated_tokens, table.c.prompt_tokens, table.c.requested_model, table.c.started_at)


def _samples(latest: Any) -> Any:
    turns = latest.subquery("latest")
    return (
        select(turns.c.estimated_tokens, turns.c.prompt_tokens)
        .where(turns.c.requested_model == bindparam("model"), turns.c.estimated_tokens > 0, turns.c.prompt_tokens > 0)
        .order_by(turns.c.started_at.desc())
        .limit(_MOST_SAMPLES)
    )


_SAMPLES_HERE = _samples(
    select(*_SAMPLE_COLUMNS)
    .where(table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("id"))
    .order_by(table.c.seq.desc())
    .limit(_MOST_SAMPLES)
)
_SAMPLES_ANYWHERE = _samples(
    select(*_SAMPLE_COLUMNS)
    .where(table.c.owner == bindparam("owner"))
    .order_by(table.c.started_at.desc())
    .limit(_LATEST_OF_OWNER)
)

# Where a key is spent: on a turn that runs, or has succeeded (as the unique index has it).
_BY_KEY = _READ.where(
    table.c.idempotency_key == bindparam("key"), table.c.status.in_([TurnStatus.RUNNING, TurnStatus.COMPLETED])
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
    messages.add(
        connection,
        Lineage(turn.owner, turn.conversation_id),
        replies,
        first_seq=first_reply,
        after=turn.last_input,
        turn=turn.seq,
        now=now,
        count=_unfailing(turn.count),
        siblings=True,
    )
    columns = _outcome(ending, first_reply if replies else None, now)
    if not held:
        del columns["status"], columns["error"]  # whoever took the conversation has written them
    if keeps_output:
        del columns["output_seq"], columns["finish_reason"]
    if has_deltas:
        deltas.remove(connection, turn.owner, turn.conversation_id, turn.seq)
    connection.execute(_CLOSE, {**key, "key_seq": turn.seq, **columns})
    return _ended(turn, ending, first_reply if replies else None, now), held


def _unfailing(count: Counter) -> Counter:
    """A counter of the caller's own that fails must not lose a reply."""

    def counted(message: Message) -> int:
        try:
            return count(message)
        except Exception:
            return estimate(message)

    return counted


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
        latency=_seconds(_milliseconds(ending.latency)),
        time_to_first_token=_seconds(_milliseconds(ending.time_to_first_token)),
        error=ending.error,
        attempts=ending.attempts,
        idempotency_key=turn.idempotency_key,
        started_at=turn.started_at,
        ended_at=now,
    )


def by_key(connection: Connection, owner: str, id: str, key: str, digest: bytes) -> Turn | None:
    """Return the turn that an idempotency key was spent on, or None.

    Raises:
        IdempotencyMismatch: it was spent on other input.
    """
    row = connection.execute(_BY_KEY, {"owner": owner, "id": id, "key": to_column(key)}).one_or_none()
    if row is None:
        return None
    if row.input_digest != digest:
        raise IdempotencyMismatch(
            f"conversation {id}: the idempotency key {key!r} was used for turn {row.seq}, which asked something else; "
            f"use a new key for a new request"
        )
    return _turns(connection, owner, [row])[0]


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


def token_samples(connection: Connection, owner: str, id: str, model: str) -> list[tuple[int, int]]:
    """Return what was estimated, and what the provider then reported, of the latest turns that asked this model.

    Those of the conversation if they tell enough, else the owner's: of its latest 64 turns, so that no more are ever
    read. None, if those do not either: of a word or two, what the provider adds of its own is most.
    """
    values = {"owner": owner, "id": id, "model": to_column(model)}
    for statement in (_SAMPLES_HERE, _SAMPLES_ANYWHERE):
        found = [(row.estimated_tokens, row.prompt_tokens) for row in connection.execute(statement, values)]
        if sum(estimated for estimated, _ in found) >= ENOUGH:
            return found
    return []


def latest_asked(connection: Connection, owner: str, id: str, before: int) -> Turn | None:
    """Return the latest turn before turn `before` that asked a model something, or None."""
    row = connection.execute(_LATEST_ASKED, {"owner": owner, "id": id, "most": 1, "before": before}).one_or_none()
    return _turns(connection, owner, [row])[0] if row is not None else None


def get(connection: Connection, owner: str, id: str, seq: int) -> Turn | None:
    """Return a turn of a conversation, or None."""
    row = connection.execute(_ONE, {"owner": owner, "id": id, "seq": seq}).one_or_none()
    return _turns(connection, owner, [row])[0] if row is not None else None


_INTERRUPTED = select(table.c.output_seq).where(
    table.c.owner == bindparam("owner"),
    table.c.conversation_id == bindparam("id"),
    table.c.seq.in_(bindparam("seqs", expanding=True)),
    table.c.status == TurnStatus.INTERRUPTED.value,
)
_CHUNK = 500  # of the variables that an old SQLite takes


def interrupted(connection: Connection, lineage: Lineage, records: Sequence[MessageRecord]) -> frozenset[int]:
    """Return the `seq` of those of these messages that are replies which broke off."""
    homes: dict[str, set[int]] = {}
    for record in records:
        if record.turn is not None and record.message["role"] == "assistant":
            homes.setdefault(lineage.home_of_turn(record.turn), set()).add(record.turn)
    found: set[int] = set()
    for home, seqs in homes.items():
        for chunk in batched(sorted(seqs), _CHUNK):
            values = {"owner": lineage.owner, "id": home, "seqs": chunk}
            found.update(seq for seq in connection.scalars(_INTERRUPTED, values) if seq is not None)
    return frozenset(found)


def latest(connection: Connection, owner: str, id: str, limit: int | None, before: int | None = None) -> list[Turn]:
    """Return turns of a conversation, in order: the last `limit`, or the last before turn `before`."""
    values = {"owner": owner, "id": id, "most": limit if limit is not None else EVERYTHING}
    if before is None:
        rows = connection.execute(_LATEST, values)
    else:
        rows = connection.execute(_LATEST_BEFORE, {**values, "before": before})
    return _turns(connection, owner, rows.all())[::-1]


def _turns(connection: Connection, owner: str, rows: Sequence[Row[Any]]) -> list[Turn]:
    outputs = [_output(row) for row in rows]
    texts = messages.texts_of(connection, owner, (output for output in outputs if output is not None))
    return [
        _turn(row, messages.read(output, texts, row.conversation_id, row.output_seq) if output is not None else None)
        for row, output in zip(rows, outputs, strict=True)
    ]


def _turn(row: Row[Any], message: Message | None) -> Turn:
    try:
        return Turn(
            conversation_id=row.conversation_id,
            seq=row.seq,
            status=TurnStatus(row.status),
            base_seq=row.base_seq,
            first_input_seq=row.first_input_seq,
            last_input_seq=row.last_input_seq,
            output_seq=row.output_seq,
            request=_object(row.request),
            window=_object(row.window) if row.window is not None else None,
            purpose=row.purpose,
            estimated_tokens=row.estimated_tokens,
            message=message,
            finish_reason=from_column(row.finish_reason),
            model=from_column(row.model),
            response_id=from_column(row.response_id),
            system_fingerprint=from_column(row.system_fingerprint),
            usage=Usage(_object(row.usage)) if row.usage is not None else None,
            cost=row.cost,
            latency=_seconds(row.latency_ms),
            time_to_first_token=_seconds(row.first_token_ms),
            error=_object(row.error) if row.error is not None else None,
            attempts=tuple(json.loads(row.attempts)) if row.attempts is not None else (),
            idempotency_key=from_column(row.idempotency_key),
            started_at=row.started_at,
            ended_at=row.ended_at,
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedRow(
            f"conversation {row.conversation_id}: turn {row.seq} cannot be decoded ({error}); "
            f"restore this row from a backup"
        ) from error


def _output(row: Row[Any]) -> StoredMessage | None:
    if row.output_seq is None:
        return None
    if row.output_role is None:
        raise messages.missing(row.conversation_id, row.output_seq)
    return StoredMessage(row.output_role, row.output_name, row.output_content, row.output_extra)


def batched(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yield the items in pieces of at most `size`."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def _object(column: str) -> dict[str, Any]:
    value = json.loads(column)
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds is not None else None
