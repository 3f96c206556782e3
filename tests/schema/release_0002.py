"""What the code of schema 0002 writes, statement by statement: frozen as its last release made it.

Not imported from anywhere, and not to be changed when convstore changes: it stands for programs that are still running
when somebody else upgrades their database. Its reads are in here as far as its writes need them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, DateTime, TextClause, bindparam, text

Message = dict[str, Any]


class DamagedRow(Exception):
    """Its error for a row that it could not read."""


def _statement(sql: str) -> TextClause:
    moments = ("now", "expires_at")
    return text(sql).bindparams(
        *(bindparam(name, type_=DateTime(timezone=True)) for name in moments if f":{name}" in sql)
    )


_CREATE = _statement(
    "INSERT INTO convstore_conversations (owner, id, name, title, settings, metadata, head_seq, length, next_seq,"
    " next_turn, creation_digest, created_at, updated_at) VALUES (:owner, :id, NULL, NULL, '{}', '{}', :count, :count,"
    " :count + 1, 1, :digest, :now, :now) ON CONFLICT DO NOTHING RETURNING id"
)
_ADD = _statement(
    "INSERT INTO convstore_messages (owner, conversation_id, seq, parent_seq, position, role, name, content, extra,"
    " context_seq, turn_seq, digest, created_at) VALUES (:owner, :id, :seq, :parent_seq, :position, :role, :name,"
    " :content, :extra, :context_seq, :turn_seq, :digest, :now)"
)
_STATE = _statement(
    "SELECT next_seq, next_turn, head_seq, lease_token FROM convstore_conversations"
    " WHERE owner = :owner AND id = :id AND deleted_at IS NULL"
)
_MESSAGE = _statement(
    "SELECT seq, parent_seq, position, role, name, content, extra, context_seq, turn_seq, digest, created_at"
    " FROM convstore_messages WHERE owner = :owner AND conversation_id = :id AND seq = :seq"
)
_MOVE_HEAD = _statement(
    "UPDATE convstore_conversations SET head_seq = :head, length = :position, next_seq = :next, next_turn = :turn,"
    " updated_at = :now WHERE owner = :owner AND id = :id"
)
_CLAIM = _statement(
    "UPDATE convstore_conversations SET next_seq = next_seq + :count, next_turn = next_turn + 1,"
    " running_turn = next_turn, lease_token = :token, lease_expires_at = :expires_at"
    " WHERE owner = :owner AND id = :id AND deleted_at IS NULL AND lease_token IS NULL"
    " RETURNING running_turn, next_seq, head_seq, settings"
)
_BEGIN = _statement(
    "INSERT INTO convstore_turns (owner, conversation_id, seq, status, idempotency_key, input_digest, base_seq,"
    " first_input_seq, last_input_seq, request, \"window\", started_at) VALUES (:owner, :id, :turn, 'running', :key,"
    " :digest, :base_seq, :first, :last, :request, :window, :now)"
)
_DELTA = _statement(
    "INSERT INTO convstore_deltas (owner, conversation_id, turn_seq, number, delta)"
    " VALUES (:owner, :id, :turn, :number, :delta) ON CONFLICT DO NOTHING"
)
_NO_DELTAS = _statement(
    "DELETE FROM convstore_deltas WHERE owner = :owner AND conversation_id = :id AND turn_seq = :turn"
)
_FREED = "running_turn = NULL, lease_token = NULL, lease_expires_at = NULL, updated_at = :now"
_HELD = "WHERE owner = :owner AND id = :id AND lease_token = :token RETURNING next_seq"
_END = _statement(f"UPDATE convstore_conversations SET next_seq = next_seq + :count, {_FREED} {_HELD}")
_END_AND_MOVE_HEAD = _statement(
    "UPDATE convstore_conversations SET head_seq = next_seq, length = :position, next_seq = next_seq + :count,"
    f" {_FREED} {_HELD}"
)
_CLOSE = _statement(
    "UPDATE convstore_turns SET status = :status, output_seq = :output_seq, response_id = :response_id, model = :model,"
    " system_fingerprint = NULL, finish_reason = :finish_reason, prompt_tokens = :prompt_tokens,"
    " completion_tokens = :completion_tokens, total_tokens = :total_tokens, cached_tokens = NULL,"
    ' reasoning_tokens = NULL, "usage" = :usage, latency_ms = 5, first_token_ms = NULL, error = :error,'
    " attempts = NULL, ended_at = :now WHERE owner = :owner AND conversation_id = :id AND seq = :turn"
)


def create(connection: Connection, owner: str, id: str, first: Sequence[Message]) -> None:
    """What its `new` did."""
    now = datetime.now(UTC)
    values = {"owner": owner, "id": id, "count": len(first), "digest": b"\0" * 16, "now": now}
    assert connection.scalar(_CREATE, values) == id
    _add(connection, owner, id, first, 1, None, None, now)


def append(connection: Connection, owner: str, id: str, *new: Message) -> None:
    """What its `append` did, without a completion or a key."""
    now = datetime.now(UTC)
    key = {"owner": owner, "id": id}
    state = connection.execute(_STATE, key).one()
    assert state.lease_token is None
    head = _at(connection, owner, id, state.head_seq)
    last = _add(connection, owner, id, new, state.next_seq, head, None, now)[-1]
    moved = {"head": last["seq"], "position": last["position"], "next": last["seq"] + 1, "turn": state.next_turn}
    connection.execute(_MOVE_HEAD, {**key, **moved, "now": now})


def say(connection: Connection, owner: str, id: str, question: str, answer: str | None) -> None:
    """What a whole turn of it did; without an answer, one that failed."""
    turn = begin(connection, owner, id, question)
    end(connection, turn, answer)


def begin(connection: Connection, owner: str, id: str, question: str, *, delta: str | None = None) -> dict[str, Any]:
    """What it did before the call; and with a delta, while a reply was streaming in."""
    now = datetime.now(UTC)
    key = {"owner": owner, "id": id}
    lease = {"token": "0" * 32 + ".0", "expires_at": now - timedelta(seconds=1), "count": 1}
    claim = connection.execute(_CLAIM, {**key, **lease}).one()
    head = _at(connection, owner, id, claim.head_seq)
    message = {"role": "user", "content": question}
    (added,) = _add(connection, owner, id, [message], claim.next_seq - 1, head, claim.running_turn, now)
    turn = {**key, "turn": claim.running_turn, "token": lease["token"]}
    values = {
        "key": None,
        "digest": None,
        "base_seq": claim.head_seq,
        "first": added["seq"],
        "last": added["seq"],
        "request": '{"model":"test-model"}',
        "window": '{"history":1,"from_seq":1}',
        "now": now,
    }
    connection.execute(_BEGIN, {**turn, **values})
    if delta is not None:
        chunk = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": delta}}]}
        connection.execute(_DELTA, {**turn, "number": 1, "delta": json.dumps(chunk)})
    return {**turn, "asked": added}


def end(connection: Connection, turn: dict[str, Any], answer: str | None) -> None:
    """What it did after the call."""
    now = datetime.now(UTC)
    turn = dict(turn)
    asked = turn.pop("asked")
    key = {"owner": turn["owner"], "id": turn["id"]}
    if answer is None:
        assert connection.scalar(_END, {**key, "token": turn["token"], "count": 0, "now": now}) is not None
        outcome: dict[str, Any] = {"status": "failed", "error": '{"type":"APIError","message":"no"}'}
    else:
        moved = {"position": asked["position"] + 1, "token": turn["token"], "count": 1, "now": now}
        next_seq = connection.scalar(_END_AND_MOVE_HEAD, {**key, **moved})
        assert next_seq is not None
        message = {"role": "assistant", "content": answer, "refusal": None}
        _add(connection, turn["owner"], turn["id"], [message], next_seq - 1, asked, turn["turn"], now)
        counts = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        outcome = {"status": "completed", "output_seq": next_seq - 1, "finish_reason": "stop", **counts}
        outcome |= {"usage": json.dumps(counts), "model": "test-model", "response_id": "chatcmpl-1"}
    nothing = dict.fromkeys(
        (
            "output_seq",
            "response_id",
            "model",
            "finish_reason",
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "usage",
            "error",
        )
    )
    connection.execute(_NO_DELTAS, {**key, "turn": turn["turn"]})
    connection.execute(_CLOSE, {**key, "turn": turn["turn"], **nothing, **outcome, "now": now})


def history(connection: Connection, owner: str, id: str) -> list[Message]:
    """What its `history` returned.

    Raises:
        DamagedRow: a message is missing, or cannot be decoded.
    """
    seq = connection.execute(_STATE, {"owner": owner, "id": id}).one().head_seq
    path = []
    while seq != 0:
        row = connection.execute(_MESSAGE, {"owner": owner, "id": id, "seq": seq}).one_or_none()
        if row is None:
            raise DamagedRow(f"message seq {seq} is missing")
        message = {"role": row.role}
        message |= {key: value for key, value in (("name", row.name), ("content", row.content)) if value is not None}
        extra = json.loads(row.extra) if row.extra is not None else {}
        if not isinstance(extra, dict):
            raise DamagedRow(f"message seq {seq}: its extra fields are not a JSON object")
        path.append(message | extra)
        seq = row.parent_seq
    return path[::-1]


def _at(connection: Connection, owner: str, id: str, seq: int) -> dict[str, Any] | None:
    if seq == 0:
        return None
    row = connection.execute(_MESSAGE, {"owner": owner, "id": id, "seq": seq}).one()
    return {
        "seq": row.seq,
        "position": row.position,
        "role": row.role,
        "context_seq": row.context_seq,
        "digest": row.digest,
    }


def _add(
    connection: Connection,
    owner: str,
    id: str,
    new: Sequence[Message],
    first_seq: int,
    after: dict[str, Any] | None,
    turn: int | None,
    now: datetime,
) -> list[dict[str, Any]]:
    added = []
    for seq, message in enumerate(new, first_seq):
        columns = {key: message.get(key) for key in ("role", "name", "content")}
        extra = {key: value for key, value in message.items() if key not in columns or not isinstance(value, str)}
        context = 0
        if after is not None:
            context = after["seq"] if after["role"] in ("system", "developer") else after["context_seq"]
        canonical = json.dumps(message, sort_keys=True, separators=(",", ":")).encode()
        row = {
            "seq": seq,
            "parent_seq": after["seq"] if after is not None else 0,
            "position": after["position"] + 1 if after is not None else 1,
            **columns,
            "extra": json.dumps(extra) if extra else None,
            "context_seq": context,
            "turn_seq": turn,
            "digest": blake2b(
                (bytes(after["digest"]) if after is not None else b"") + canonical, digest_size=16
            ).digest(),
        }
        connection.execute(_ADD, {"owner": owner, "id": id, **row, "now": now})
        added.append(row)
        after = row
    return added
