"""Count what an owner asks of models: the turns that run, and the tokens of a day."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, and_, bindparam, case, func, literal_column, select

from convstore.db.connection import Connection
from convstore.db.dialect import current_time, current_time_values, is_sqlite
from convstore.db.lock_wait import limit_lock_wait
from convstore.db.tables import UtcDateTime, conversations, messages, turns
from convstore.usage.usage_report import END_OF_TIME

_LOCK = select(func.pg_advisory_xact_lock(bindparam("lock", type_=BigInteger)))
_OUTPUT_TOKENS = (
    select(messages.c.tokens)
    .where(
        messages.c.owner == bindparam("key_owner"),
        messages.c.conversation_id == turns.c.conversation_id,
        messages.c.seq == turns.c.output_seq,
    )
    .correlate(turns)
    .scalar_subquery()
)
# As the provider reported them. A stream reports none unless it is asked to: then as the store's counter estimated.
_TOKENS = select(
    func.sum(
        case(
            (turns.c.total_tokens.is_not(None), turns.c.total_tokens),
            (turns.c.status == "failed", 0),
            else_=func.coalesce(turns.c.prompt_tokens, turns.c.estimated_tokens, 0)
            + func.coalesce(turns.c.completion_tokens, _OUTPUT_TOKENS, 0),
        )
    )
).where(
    turns.c.owner == bindparam("key_owner"),
    # Both limits, so that SQLite uses the index of owner and time.
    turns.c.started_at >= bindparam("since", type_=UtcDateTime()),
    turns.c.started_at <= END_OF_TIME,
)


@cache
def _running_statement(dialect: str) -> Any:
    # The status is a part of the text, because a partial index is of use only to a condition that is known.
    return (
        select(conversations.c.lease_token)
        .select_from(turns)
        .join(
            conversations,
            and_(
                conversations.c.owner == bindparam("key_owner"),
                conversations.c.id == turns.c.conversation_id,
                conversations.c.running_turn == turns.c.seq,
            ),
        )
        .where(
            turns.c.owner == bindparam("key_owner"),
            turns.c.status == literal_column("'running'"),
            conversations.c.lease_expires_at > current_time(dialect),
        )
    )


def lock_owner(connection: Connection, owner: str) -> None:
    """Let no other transaction that calls this for the owner pass, until this one ends.

    On SQLite, only one transaction writes at a time, so nothing is done.
    """
    if is_sqlite(connection):
        return
    limit_lock_wait(connection)
    digest = hashlib.sha256(b"convstore turns of " + owner.encode("utf-8", "surrogatepass")).digest()
    connection.execute(_LOCK, {"lock": int.from_bytes(digest[:8], "big", signed=True)})


def list_running_leases(connection: Connection, owner: str, now: datetime) -> list[str]:
    """Return the lease tokens of the owner's turns that run under a lease that has not expired."""
    dialect = connection.dialect.name
    found = connection.execute(_running_statement(dialect), {"key_owner": owner, **current_time_values(dialect, now)})
    return [row.lease_token for row in found]


def count_tokens(connection: Connection, owner: str, since: datetime) -> int:
    """Return how many tokens the owner's turns used that began at a moment or later."""
    return int(connection.scalar(_TOKENS, {"key_owner": owner, "since": since}) or 0)
