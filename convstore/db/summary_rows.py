"""Summaries: what may stand in a window for the older part of a path. Rows are added, and the latest is pointed to."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    bindparam,
    case,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from convstore.db.engine import few
from convstore.db.fork_sharing import Lineage
from convstore.db.tables import conversations
from convstore.db.tables import summaries as table
from convstore.messages.codec import from_column, to_column
from convstore.values.results import Summary

_CANDIDATES = 8
"""How many summaries back one is looked for that is of the present path; after `undo` the latest may not be."""

_INSERT = insert(table)
_KEY = (conversations.c.owner == bindparam("key_owner"), conversations.c.id == bindparam("key_id"))
_CLAIM = (
    update(conversations)
    .where(
        *_KEY,
        or_(conversations.c.compacting_until.is_(None), conversations.c.compacting_until < bindparam("now")),
    )
    .values(compacting_until=bindparam("until"))
)
_RELEASE = update(conversations).where(*_KEY).values(compacting_until=null())
_POINT = update(conversations).where(*_KEY).values(summary_turn=bindparam("turn"))


@cache
def _chain_statement(depth: int) -> Any:
    columns = list(table.c)
    start = select(*columns, literal(1, BigInteger).label("step")).where(
        *_kept_in(depth, bindparam("turn", type_=BigInteger)), table.c.turn_seq == bindparam("turn", type_=BigInteger)
    )
    chain = start.cte("chain", recursive=True)
    before = select(*columns, chain.c.step + 1).where(
        *_kept_in(depth, chain.c.previous_turn),
        table.c.turn_seq == chain.c.previous_turn,
        few(chain.c.step < _CANDIDATES),
    )
    chain = chain.union_all(before)
    return select(chain).order_by(chain.c.step)


def _kept_in(depth: int, turn: ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
    mine: ColumnElement[str] = bindparam("conversation_id")
    if depth:
        homes: list[ColumnElement[str]] = [mine, *(bindparam(f"origin_{number}") for number in range(depth))]
        limits = [turn > bindparam(f"up_to_{number}", type_=BigInteger) for number in range(depth)]
        mine = case(*zip(limits, homes, strict=False), else_=homes[-1])
    return table.c.owner == bindparam("owner"), table.c.conversation_id == mine


def latest(connection: Connection, lineage: Lineage, turn: int | None) -> list[Summary]:
    """Return the summary that turn `turn` wrote, and those that came before it, latest first; a few at most."""
    if turn is None:
        return []
    values = lineage.bound() | {f"up_to_{number}": origin.up_to_turn for number, origin in enumerate(lineage.origins)}
    found = connection.execute(_chain_statement(len(lineage.origins)), {**values, "turn": turn})
    return [
        Summary(
            turn=row.turn_seq,
            up_to_seq=row.up_to_seq,
            up_to_position=row.up_to_position,
            text=from_column(row.text) or "",
            tokens=row.tokens,
            previous_turn=row.previous_turn,
            created_at=row.created_at,
        )
        for row in found
    ]


def add(connection: Connection, owner: str, id: str, summary: Summary) -> None:
    """Put a summary on record, and let it stand in from now on."""
    connection.execute(
        _INSERT,
        {
            "owner": owner,
            "conversation_id": id,
            "turn_seq": summary.turn,
            "up_to_seq": summary.up_to_seq,
            "up_to_position": summary.up_to_position,
            "previous_turn": summary.previous_turn,
            "text": to_column(summary.text),
            "tokens": summary.tokens,
            "created_at": summary.created_at,
        },
    )
    point(connection, owner, id, summary.turn)


def point(connection: Connection, owner: str, id: str, turn: int | None) -> None:
    """Let the summary of turn `turn` be the latest, or (None) no summary at all; the rows stay."""
    connection.execute(_POINT, {"key_owner": owner, "key_id": id, "turn": turn})


def claim(connection: Connection, owner: str, id: str, now: datetime, until: datetime) -> bool:
    """Return whether the caller is the one that is to compact a conversation by itself, until a moment at most.

    It is no lease: whoever compacts without it does no harm but to pay for the same summary twice.
    """
    claimed = connection.execute(_CLAIM, {"key_owner": owner, "key_id": id, "now": now, "until": until})
    return bool(claimed.rowcount)


def release(connection: Connection, owner: str, id: str) -> None:
    """Let others compact the conversation by themselves again."""
    connection.execute(_RELEASE, {"key_owner": owner, "key_id": id})
