"""List the conversations of an owner that shall be purged, and delete what an owner has besides conversations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, delete, select

from convstore.db import api_key_rows
from convstore.db.connection import Connection
from convstore.db.fork_sharing import read_nearest_origin
from convstore.db.tables import conversations as table
from convstore.db.tables import daily_usage, retention, tombstones
from convstore.errors import DamagedRow
from convstore.values.identifiers import ConversationKey

_OF_OWNER = table.c.owner == bindparam("owner")
_HAS_ID = table.c.id == bindparam("conversation_id", type_=table.c.id.type)
_ALL = select(table.c.id).where(_OF_OWNER).order_by(table.c.id)
_OLDER = _ALL.where(table.c.updated_at < bindparam("moment", type_=table.c.updated_at.type))
_DELETED_BEFORE = _ALL.where(
    table.c.deleted_at.is_not(None), table.c.deleted_at < bindparam("moment", type_=table.c.deleted_at.type)
)
_FORKS = select(table.c.id, table.c.lineage).where(_OF_OWNER, table.c.lineage.is_not(None))
_OF_OWNER_ALONE = tuple(
    delete(one).where(one.c.owner == bindparam("owner")) for one in (daily_usage, tombstones, retention)
)


@dataclass(frozen=True, slots=True)
class AgeLimit:
    """Which conversations are old enough to be purged."""

    before: datetime
    """When they were last changed, at the latest."""
    deleted: bool
    """Whether only deleted ones are, and the time counts from then."""


def list_all(connection: Connection, owner: str) -> list[str]:
    """Return the ids of all conversations of an owner, deleted ones too; forks come before their origins."""
    return put_forks_first(connection, owner, (row.id for row in connection.execute(_ALL, {"owner": owner})))


def list_older(connection: Connection, owner: str, limits: Iterable[AgeLimit]) -> list[str]:
    """Return the ids of conversations that are as old as one of the limits says; forks come before their origins."""
    found: dict[str, None] = {}
    for limit in limits:
        rows = connection.execute(_choose(limit), {"owner": owner, "moment": limit.before})
        found |= dict.fromkeys(row.id for row in rows)
    return put_forks_first(connection, owner, found)


def is_older(connection: Connection, key: ConversationKey, limits: Iterable[AgeLimit]) -> bool:
    """Return True if a conversation is as old as one of the limits says."""
    return any(
        connection.scalar(
            _choose(limit).where(_HAS_ID), {"owner": key.owner, "conversation_id": key.id, "moment": limit.before}
        )
        is not None
        for limit in limits
    )


def _choose(limit: AgeLimit) -> Select[Any]:
    return _DELETED_BEFORE if limit.deleted else _OLDER


def put_forks_first(connection: Connection, owner: str, ids: Iterable[str]) -> list[str]:
    """Return ids in such an order that nothing is copied to a fork that is purged too."""
    origins: dict[str, str] = {}
    for row in connection.execute(_FORKS, {"owner": owner}):
        try:
            origin = read_nearest_origin(ConversationKey(owner, row.id), row.lineage)
        except DamagedRow:
            continue  # the purge of its origin names it
        if origin is not None:
            origins[row.id] = origin.conversation_id
    depths: dict[str, int] = {}

    def find_depth(id: str) -> int:
        chain: list[str] = []
        while id in origins and id not in depths and id not in chain:
            chain.append(id)
            id = origins[id]
        depth = depths.get(id, 0)
        for one in reversed(chain):
            depth += 1
            depths[one] = depth
        return depth

    return sorted(ids, key=lambda id: (-find_depth(id), id))


def delete_of_owner(connection: Connection, owner: str, now: datetime) -> None:
    """Delete the sums of usage, tombstones, periods of retention and keys of an owner."""
    for statement in _OF_OWNER_ALONE:
        connection.execute(statement, {"owner": owner})
    api_key_rows.delete_of_owner(connection, owner, now)
