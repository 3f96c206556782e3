"""List the conversations of an owner that shall be purged, and delete what an owner has besides conversations."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import bindparam, delete, select

from convstore.db.connection import Connection
from convstore.db.fork_sharing import read_nearest_origin
from convstore.db.tables import api_keys, daily_usage, retention, tombstones
from convstore.db.tables import conversations as table
from convstore.errors import DamagedRow
from convstore.values.identifiers import ConversationKey

_OF_OWNER = table.c.owner == bindparam("owner")
_ALL = select(table.c.id).where(_OF_OWNER).order_by(table.c.id)
_OLDER = _ALL.where(table.c.updated_at < bindparam("moment", type_=table.c.updated_at.type))
_DELETED_BEFORE = _ALL.where(
    table.c.deleted_at.is_not(None), table.c.deleted_at < bindparam("moment", type_=table.c.deleted_at.type)
)
_FORKS = select(table.c.id, table.c.lineage).where(_OF_OWNER, table.c.lineage.is_not(None))
_OF_OWNER_ALONE = tuple(
    delete(one).where(one.c.owner == bindparam("owner")) for one in (daily_usage, tombstones, retention, api_keys)
)


def list_all(connection: Connection, owner: str) -> list[str]:
    """Return the ids of all conversations of an owner, deleted ones too; forks come before their origins."""
    return put_forks_first(connection, owner, (row.id for row in connection.execute(_ALL, {"owner": owner})))


def list_older(connection: Connection, owner: str, before: datetime, *, deleted: bool) -> list[str]:
    """Return the ids of conversations that were last changed before a moment; forks come before their origins.

    Args:
        deleted: return those that were deleted before the moment, and no others.
    """
    rows = connection.execute(_DELETED_BEFORE if deleted else _OLDER, {"owner": owner, "moment": before})
    return put_forks_first(connection, owner, (row.id for row in rows))


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


def delete_of_owner(connection: Connection, owner: str) -> None:
    """Delete the sums of usage, tombstones, periods of retention and keys of an owner."""
    for statement in _OF_OWNER_ALONE:
        connection.execute(statement, {"owner": owner})
