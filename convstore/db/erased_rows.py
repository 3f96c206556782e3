"""Lock, count and delete all rows of a conversation, for good."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import bindparam, case, delete, func, literal_column, select, update

from convstore.db.connection import Connection
from convstore.db.dialect import is_sqlite
from convstore.db.fork_sharing import Lineage, read_lineage
from convstore.db.row_errors import DECODING_ERRORS, conversation_locked
from convstore.db.tables import (
    conversations,
    daily_usage,
    messages,
    metadata,
    search_documents,
    summaries,
    tombstones,
    turns,
)
from convstore.errors import ConversationNotFound, DamagedRow
from convstore.messages.first_title import MOST_POSITION
from convstore.values.identifiers import ConversationKey, Seq

CHILD_TABLES = tuple(
    table.name
    for table in reversed(metadata.sorted_tables)
    if "conversation_id" in table.c and table not in (tombstones, search_documents)
)
"""The tables with rows of conversations. `erased_terms` deletes those of the search index."""

_LONGEST_KIND = 64

_ROW = select(
    conversations.c.lineage,
    conversations.c.lease_token,
    conversations.c.deleted_at,
    conversations.c.created_at,
    conversations.c.title,
    conversations.c.made_title,
    conversations.c.name,
    conversations.c.metadata,
    conversations.c.head_seq,
).where(conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id"))
# Not `FOR NO KEY UPDATE`: it must keep others from making a fork of the conversation, too.
_ROW_LOCKED = _ROW.with_for_update(skip_locked=True)
_DELETES = {
    name: delete(metadata.tables[name]).where(
        metadata.tables[name].c.owner == bindparam("owner"),
        metadata.tables[name].c.conversation_id == bindparam("conversation_id"),
    )
    for name in CHILD_TABLES
}
_DELETE = delete(conversations).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_COUNTS = {
    table.name: select(func.count())
    .select_from(table)
    .where(table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("conversation_id"))
    for table in (messages, turns, summaries)
}
_MOST_TOKENS = 10**12  # more is damage, which must not stop a purge: a database refuses a sum that is too large
_TOKENS = select(
    *(
        func.sum(case((column.between(0, literal_column(str(_MOST_TOKENS))), column), else_=literal_column("0")))
        for column in (turns.c.prompt_tokens, turns.c.completion_tokens)
    )
).where(turns.c.owner == bindparam("owner"), turns.c.conversation_id == bindparam("conversation_id"))
_FIRST_OF_USER = select(func.min(messages.c.seq)).where(
    messages.c.owner == bindparam("owner"),
    messages.c.conversation_id == bindparam("conversation_id"),
    messages.c.role == "user",
    messages.c.position <= bindparam("most", MOST_POSITION, type_=messages.c.position.type),
)
_DIGEST = select(messages.c.digest).where(
    messages.c.owner == bindparam("owner"),
    messages.c.conversation_id == bindparam("conversation_id"),
    messages.c.seq == bindparam("seq"),
)
_PERIOD = select(func.min(turns.c.started_at).label("first"), func.max(turns.c.started_at).label("last")).where(
    turns.c.owner == bindparam("owner"), turns.c.conversation_id == bindparam("conversation_id")
)
# In an UPDATE, SQLAlchemy keeps the parameter names of the columns.
_FORGET_SUMS = (
    update(daily_usage)
    .where(
        daily_usage.c.owner == bindparam("key_owner"),
        daily_usage.c.day >= bindparam("first"),
        daily_usage.c.day <= bindparam("last"),
    )
    .values(sums=None)
)


@dataclass(frozen=True, slots=True)
class ErasableRow:
    """What a purge needs to know of the row of a conversation. Its texts may be damaged."""

    lineage: Lineage
    damage: DamagedRow | None
    """Why its lineage cannot be decoded; then nobody knows what its forks share."""
    is_held: bool
    """Whether a turn holds it."""
    is_deleted: bool
    created_at: datetime
    title: str | None
    """As it is stored."""
    made_title: str | None
    """As it is stored."""
    name: str | None
    source_kind: str | None
    """The kind of file that it was imported from; None: it was not."""
    head_seq: int


def lock_erasable(connection: Connection, key: ConversationKey, *, locks: bool = True) -> ErasableRow:
    """Return the row of a conversation, and keep others from changing or forking it until the transaction ends.

    Args:
        locks: False: only read it.

    Raises:
        ConversationNotFound: the owner has no such conversation, not even a deleted one.
        ConversationBusy: another transaction holds the row.
    """
    values = {"owner": key.owner, "id": key.id}
    row = connection.execute(_ROW if is_sqlite(connection) or not locks else _ROW_LOCKED, values).one_or_none()
    if row is None:
        if connection.execute(_ROW, values).one_or_none() is not None:
            raise conversation_locked(key)
        raise ConversationNotFound(f"no conversation {key.id!r}")
    lineage, damage = Lineage(key), None
    try:
        lineage = read_lineage(key, row.lineage)
    except DamagedRow as error:
        damage = error
    return ErasableRow(
        lineage=lineage,
        damage=damage,
        is_held=row.lease_token is not None,
        is_deleted=row.deleted_at is not None,
        created_at=row.created_at,
        title=row.title,
        made_title=row.made_title,
        name=row.name,
        source_kind=_read_kind(row.metadata),
        head_seq=row.head_seq,
    )


def _read_kind(column: Any) -> str | None:
    """Return the kind of file that a conversation was imported from, if its metadata say it."""
    try:
        kind = json.loads(column)["import"]["kind"]
    except DECODING_ERRORS:
        return None
    is_kind = isinstance(kind, str) and len(kind) <= _LONGEST_KIND and kind.replace("-", "").replace("_", "").isalnum()
    return kind if is_kind else None


def count_rows(connection: Connection, key: ConversationKey) -> Counter[str]:
    """Return how many messages, turns and summaries a conversation has in rows of its own, by the names of tables."""
    values = {"owner": key.owner, "conversation_id": key.id}
    return Counter({name: int(connection.scalar(statement, values)) for name, statement in _COUNTS.items()})


def sum_tokens(connection: Connection, key: ConversationKey) -> tuple[int, int]:
    """Return the tokens of all requests and of all replies of a conversation's own turns."""
    prompt, completion = connection.execute(_TOKENS, {"owner": key.owner, "conversation_id": key.id}).one()
    return int(prompt or 0), int(completion or 0)


def read_digest(connection: Connection, key: ConversationKey, seq: int) -> bytes | None:
    """Return the digest of a message in a conversation's own rows; None: it is not there."""
    found = connection.scalar(_DIGEST, {"owner": key.owner, "conversation_id": key.id, "seq": seq})
    return bytes(found) if found is not None else None


def find_titling(connection: Connection, key: ConversationKey) -> Seq | None:
    """Return the message in a conversation's own rows that its made title was made of; None: it is not there."""
    found = connection.scalar(_FIRST_OF_USER, {"owner": key.owner, "conversation_id": key.id})
    return Seq(found) if found is not None else None


def forget_sums(connection: Connection, key: ConversationKey) -> None:
    """Delete the sums of usage of the days of a conversation's turns: reports add up what is left."""
    period = connection.execute(_PERIOD, {"owner": key.owner, "conversation_id": key.id}).one()
    days = [str(moment)[:10] for moment in (period.first, period.last) if moment is not None]
    if days and all(map(_is_day, days)):
        connection.execute(_FORGET_SUMS, {"key_owner": key.owner, "first": days[0], "last": days[-1]})


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:  # a damaged row
        return False
    return True


def delete_row(connection: Connection, key: ConversationKey) -> None:
    """Delete the row of a conversation that has no others."""
    connection.execute(_DELETE, {"owner": key.owner, "id": key.id})


def delete_rows(connection: Connection, key: ConversationKey) -> None:
    """Delete a conversation and all of its rows but those of the search index."""
    for statement in _DELETES.values():
        connection.execute(statement, {"owner": key.owner, "conversation_id": key.id})
    delete_row(connection, key)
