"""Turns as they are read: one, the latest, those of a key; and what they tell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from convstore.db import message_rows
from convstore.db.engine import EVERYTHING
from convstore.db.fork_sharing import Lineage
from convstore.db.tables import messages as message_table
from convstore.db.tables import turns as table
from convstore.errors import DamagedRow, IdempotencyMismatch
from convstore.messages.codec import Message, StoredMessage, from_column, to_column
from convstore.messages.completion import Usage
from convstore.messages.token_estimate import ENOUGH
from convstore.values.results import MessageRecord, Turn, TurnStatus

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
    texts = message_rows.texts_of(connection, owner, (output for output in outputs if output is not None))
    return [
        _turn(
            row, message_rows.read(output, texts, row.conversation_id, row.output_seq) if output is not None else None
        )
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
            latency=seconds(row.latency_ms),
            time_to_first_token=seconds(row.first_token_ms),
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
        raise message_rows.missing(row.conversation_id, row.output_seq)
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


def seconds(milliseconds: int | None) -> float | None:
    """Return a column of milliseconds as seconds."""
    return milliseconds / 1000 if milliseconds is not None else None
