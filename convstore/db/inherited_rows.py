"""Copy to a fork what it shares of its origin, under the same numbers, so that the origin can be purged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, Table, Text, bindparam, case, func, insert, null, or_, select
from sqlalchemy import cast as sql_cast

from convstore.db.connection import Connection
from convstore.db.exported_lines import NOT_SHARED_ERROR
from convstore.db.search_backlog import put_off
from convstore.db.tables import client_requests, messages, ratings, redactions, summaries, turns
from convstore.messages.storable_text import to_json
from convstore.values.identifiers import ConversationKey, Seq, TurnNumber
from convstore.values.results import TurnStatus

_AFTER_SEQ, _UP_TO_SEQ = (bindparam(name, type_=BigInteger) for name in ("after_seq", "up_to_seq"))
_AFTER_TURN, _UP_TO_TURN = (bindparam(name, type_=BigInteger) for name in ("after_turn", "up_to_turn"))
_FORK_ID = bindparam("fork_id", type_=messages.c.conversation_id.type)

_OF_REPLY = (
    *("response_id", "model", "system_fingerprint", "finish_reason", "prompt_tokens", "completion_tokens"),
    *("total_tokens", "cached_tokens", "reasoning_tokens", "usage", "cost", "latency_ms", "first_token_ms"),
    *("response_fields", "notes"),
)
"""What a turn has of its reply, or counts for it."""


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a fork shares of the rows of its origin: numbers after the first ones, up to the others."""

    after_seq: Seq
    after_turn: TurnNumber
    up_to_seq: Seq
    up_to_turn: TurnNumber


def _of(table: Table) -> tuple[ColumnElement[bool], ...]:
    return table.c.owner == bindparam("key_owner"), table.c.conversation_id == bindparam("key_id")


def _copy(table: Table, where: tuple[ColumnElement[bool], ...], changed: Mapping[str, ColumnElement[Any]]) -> Any:
    """Return the statement that inserts rows of the origin as rows of the fork, with other values in some columns."""
    given = {"conversation_id": _FORK_ID, **changed}
    columns = [given[column.name].label(column.name) if column.name in given else column for column in table.c]
    return insert(table).from_select(table.c.keys(), select(*columns).where(*_of(table), *where))


def _in_shared(table: Table) -> tuple[ColumnElement[bool], ...]:
    return table.c.seq > _AFTER_SEQ, table.c.seq <= _UP_TO_SEQ


_COUNT = select(func.count()).select_from(messages).where(*_of(messages), *_in_shared(messages))
_COPY_MESSAGES = _copy(messages, _in_shared(messages), {})
_COPY_RATINGS = _copy(ratings, _in_shared(ratings), {})
_COPY_REDACTIONS = _copy(redactions, _in_shared(redactions), {})

_TURNS_OF_MESSAGES: Select[Any] = select(messages.c.turn_seq).where(
    *_of(messages), *_in_shared(messages), messages.c.turn_seq.is_not(None)
)
_TURNS_OF_SUMMARIES: Select[Any] = select(summaries.c.turn_seq).where(
    *_of(summaries), summaries.c.up_to_seq <= _UP_TO_SEQ
)
_IS_CUT = or_(turns.c.output_seq > _UP_TO_SEQ, turns.c.last_input_seq > _UP_TO_SEQ)
"""The fork was made in the middle of the turn: it does not share the reply."""


def _if_cut(value: ColumnElement[Any], column: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((_IS_CUT, value), else_=column)


def _make_null(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return sql_cast(null(), column.type)


_COPY_TURNS = _copy(
    turns,
    (
        turns.c.seq > _AFTER_TURN,
        turns.c.seq <= _UP_TO_TURN,
        or_(turns.c.seq.in_(_TURNS_OF_MESSAGES), turns.c.seq.in_(_TURNS_OF_SUMMARIES)),
    ),
    {
        # A key is used for one conversation: the fork's own turns may have the same.
        "idempotency_key": _make_null(turns.c.idempotency_key),
        "input_digest": _make_null(turns.c.input_digest),
        "status": _if_cut(bindparam("cut_status", type_=Text), turns.c.status),
        "error": _if_cut(bindparam("cut_error", type_=Text), turns.c.error),
        "output_seq": _if_cut(_make_null(turns.c.output_seq), turns.c.output_seq),
        "last_input_seq": case((turns.c.last_input_seq > _UP_TO_SEQ, _UP_TO_SEQ), else_=turns.c.last_input_seq),
        **{name: _if_cut(_make_null(turns.c[name]), turns.c[name]) for name in _OF_REPLY},
    },
)
_SUMMARIES = (
    select(summaries.c.turn_seq, summaries.c.up_to_seq, summaries.c.previous_turn)
    .where(*_of(summaries), summaries.c.turn_seq > _AFTER_TURN, summaries.c.turn_seq <= _UP_TO_TURN)
    .order_by(summaries.c.turn_seq)
)
_IS_REPLY_SHARED = client_requests.c.reply_seq <= _UP_TO_SEQ
_COPY_REQUESTS = _copy(
    client_requests,
    (
        client_requests.c.turn_seq > _AFTER_TURN,
        client_requests.c.turn_seq <= _UP_TO_TURN,
        client_requests.c.asked_seq > _AFTER_SEQ,
        client_requests.c.asked_seq <= _UP_TO_SEQ,
    ),
    {
        "idempotency_digest": _make_null(client_requests.c.idempotency_digest),
        "body_digest": _make_null(client_requests.c.body_digest),
        **{
            name: case((_IS_REPLY_SHARED, client_requests.c[name]), else_=_make_null(client_requests.c[name]))
            for name in ("reply_seq", "reply_digest", "tail_digest", "response_id")
        },
    },
)
_COPY_SUMMARY = _copy(
    summaries,
    (summaries.c.turn_seq == bindparam("turn", type_=BigInteger),),
    {"previous_turn": bindparam("previous", type_=BigInteger)},
)


def count_shared(connection: Connection, origin: ConversationKey, shared: Inheritance) -> int:
    """Return how many messages `copy_to_fork` would copy."""
    seqs = {"after_seq": shared.after_seq, "up_to_seq": shared.up_to_seq}
    return int(connection.scalar(_COUNT, {"key_owner": origin.owner, "key_id": origin.id, **seqs}))


def copy_to_fork(connection: Connection, origin: ConversationKey, fork_id: str, shared: Inheritance) -> int:
    """Copy the messages that a fork shares of its origin, and what belongs to them; return the number of messages.

    Args:
        origin: the conversation that has the rows.
    """
    place = {"key_owner": origin.owner, "key_id": origin.id, "fork_id": fork_id}
    seqs = {"after_seq": shared.after_seq, "up_to_seq": shared.up_to_seq}
    numbers = {"after_turn": shared.after_turn, "up_to_turn": shared.up_to_turn}
    copied = int(connection.execute(_COPY_MESSAGES, {**place, **seqs}).rowcount)
    for statement in (_COPY_RATINGS, _COPY_REDACTIONS):
        connection.execute(statement, {**place, **seqs})
    cut = {"cut_status": TurnStatus.INTERRUPTED.value, "cut_error": to_json(NOT_SHARED_ERROR)}
    connection.execute(_COPY_TURNS, {**place, **seqs, **numbers, **cut})
    connection.execute(_COPY_REQUESTS, {**place, **seqs, **numbers})
    _copy_summaries(connection, place, numbers, shared)
    if copied:
        put_off(connection, ConversationKey(origin.owner, fork_id), Seq(shared.after_seq + 1))
    return copied


def _copy_summaries(
    connection: Connection, place: Mapping[str, Any], numbers: Mapping[str, int], shared: Inheritance
) -> None:
    """Copy the summaries of messages that the fork shares; each names the one before it that the fork has."""
    rows = connection.execute(_SUMMARIES, {**place, **numbers}).all()
    previous = {row.turn_seq: row.previous_turn for row in rows}
    kept = {row.turn_seq for row in rows if row.up_to_seq <= shared.up_to_seq}
    for turn in sorted(kept):
        before = previous[turn]
        while before is not None and before > shared.after_turn and before not in kept:
            before = previous.get(before)
        connection.execute(_COPY_SUMMARY, {**place, "turn": turn, "previous": before})
