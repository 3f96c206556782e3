"""Read and insert summaries, and mark the latest one of a conversation."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Row, bindparam, insert, literal, null, or_, select, update

from convstore.db.connection import Connection
from convstore.db.dialect import few
from convstore.db.fork_sharing import Lineage, is_kept, locate_turn
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import DECODING_ERRORS, damaged_row
from convstore.db.tables import conversations
from convstore.db.tables import summaries as table
from convstore.messages.storable_text import from_column, to_column
from convstore.values.identifiers import ConversationKey, TurnNumber
from convstore.values.results import Summary

_MAX_CANDIDATES = 8
"""How many summaries are read. After `undo` the latest one may belong to another path, and an older one is used."""

_check_types = RowCheck(table.c)
_INSERT = insert(table)
_OF_CONVERSATION = (conversations.c.owner == bindparam("key_owner"), conversations.c.id == bindparam("key_id"))
_CLAIM = (
    update(conversations)
    .where(
        *_OF_CONVERSATION,
        or_(conversations.c.compacting_until.is_(None), conversations.c.compacting_until < bindparam("now")),
    )
    .values(compacting_until=bindparam("until"))
)
_RELEASE = update(conversations).where(*_OF_CONVERSATION).values(compacting_until=null())
_SET_LATEST = update(conversations).where(*_OF_CONVERSATION).values(summary_turn=bindparam("turn"))


@cache
def _chain_statement(width: int) -> Any:
    columns = list(table.c)
    latest = bindparam("turn", type_=BigInteger)
    start = select(*columns, literal(1, BigInteger).label("step")).where(
        *is_kept(table, width, latest), table.c.turn_seq == latest
    )
    chain = start.cte("chain", recursive=True)
    before = select(*columns, chain.c.step + 1).where(
        *is_kept(table, width, chain.c.previous_turn),
        table.c.turn_seq == chain.c.previous_turn,
        few(chain.c.step < bindparam("most", type_=BigInteger)),
        table.c.turn_seq < chain.c.turn_seq,  # a damaged row may name itself
    )
    chain = chain.union_all(before)
    return select(chain).order_by(chain.c.step)


def read_summaries(connection: Connection, lineage: Lineage, turn: TurnNumber | None) -> list[Summary]:
    """Return a turn's summary and those that it replaced, latest first; eight at most."""
    found: list[Summary] = []
    while turn is not None and len(found) < _MAX_CANDIDATES:
        lineage = locate_turn(connection, lineage, turn)
        values = {**lineage.bind_turn_limits(), "turn": turn, "most": _MAX_CANDIDATES - len(found)}
        rows = connection.execute(_chain_statement(lineage.width), values).all()
        _check_types(rows, lineage.key.id, "a summary")
        found.extend(decode_summary(row, lineage.key.id) for row in rows)
        turn = found[-1].previous_turn if rows else None
        if turn is not None and lineage.knows_turn(turn):
            break  # its row is missing, or names a later turn
    return found


def decode_summary(row: Row[Any], conversation_id: str) -> Summary:
    """Return a row as a summary.

    Raises:
        DamagedRow: the row cannot be decoded.
    """
    try:
        text = from_column(row.text) or ""
    except DECODING_ERRORS as error:
        raise damaged_row(conversation_id, f"the summary of turn {row.turn_seq} cannot be decoded ({error})") from error
    return Summary(
        turn=row.turn_seq,
        up_to_seq=row.up_to_seq,
        up_to_position=row.up_to_position,
        text=text,
        tokens=row.tokens,
        previous_turn=row.previous_turn,
        created_at=row.created_at,
    )


def insert_summary(connection: Connection, key: ConversationKey, summary: Summary) -> None:
    """Insert a summary, and make it the latest."""
    connection.execute(
        _INSERT,
        {
            "owner": key.owner,
            "conversation_id": key.id,
            "turn_seq": summary.turn,
            "up_to_seq": summary.up_to_seq,
            "up_to_position": summary.up_to_position,
            "previous_turn": summary.previous_turn,
            "text": to_column(summary.text),
            "tokens": summary.tokens,
            "created_at": summary.created_at,
        },
    )
    set_latest_summary(connection, key, summary.turn)


def set_latest_summary(connection: Connection, key: ConversationKey, turn: TurnNumber | None) -> None:
    """Make the summary of a turn the latest one; None: there is no latest summary.

    The rows of summaries stay.
    """
    connection.execute(_SET_LATEST, {"key_owner": key.owner, "key_id": key.id, "turn": turn})


def claim_compaction(connection: Connection, key: ConversationKey, now: datetime, until: datetime) -> bool:
    """Claim the automatic compaction of a conversation.

    Return False if another caller has claimed it. A claim ends at `until`. It is not a lease: if two callers compact
    the same conversation, the only harm is that both pay for a summary.
    """
    claimed = connection.execute(_CLAIM, {"key_owner": key.owner, "key_id": key.id, "now": now, "until": until})
    return bool(claimed.rowcount)


def release_compaction(connection: Connection, key: ConversationKey) -> None:
    """Let other callers compact the conversation automatically again."""
    connection.execute(_RELEASE, {"key_owner": key.owner, "key_id": key.id})
