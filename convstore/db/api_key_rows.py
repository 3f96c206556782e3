"""Read and write the keys of the service. A key is found by the digest of its secret."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, insert, literal, or_, select, update

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_ignore
from convstore.db.tables import UtcDateTime
from convstore.db.tables import api_keys as table
from convstore.errors import DamagedRow
from convstore.values.api_key import ApiKey, Right

_INSERT = insert(table)
_BY_DIGEST = select(table).where(table.c.digest == bindparam("digest"))
_ANY = select(literal(1)).select_from(table).limit(1)
_MARK = b"purged"
"""Stands where the digest of a key would: no secret has so short a digest. The row says that there was a key."""
_IS_KEY = table.c.digest != bindparam("mark", _MARK, type_=table.c.digest.type)
_ALL = select(table).where(_IS_KEY).order_by(table.c.created_at, table.c.id)
_OF_OWNER = select(table).where(table.c.owner == bindparam("owner"), _IS_KEY).order_by(table.c.created_at, table.c.id)
_BY_ID = select(table).where(table.c.id == bindparam("key_id"), _IS_KEY)
_DELETE = delete(table).where(table.c.owner == bindparam("owner"))
_REVOKE = (
    update(table)
    .where(table.c.id == bindparam("key_id"), table.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("now", type_=UtcDateTime()))
)
_USE = (
    update(table)
    .where(
        table.c.id == bindparam("key_id"),
        or_(table.c.last_used_at.is_(None), table.c.last_used_at < bindparam("before", type_=UtcDateTime())),
    )
    .values(last_used_at=bindparam("now", type_=UtcDateTime()))
)


def insert_key(connection: Connection, key: ApiKey, digest: bytes) -> None:
    """Store a key and the digest of its secret."""
    values = {
        "digest": digest,
        "id": key.id,
        "owner": key.owner,
        "name": key.name,
        "rights": _write_rights(key.rights),
        "acts_for": key.acts_for,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": None,
        "last_used_at": None,
        "max_turns": key.max_turns,
        "max_tokens_a_day": key.max_tokens_a_day,
    }
    connection.execute(_INSERT, values)


def find_by_digest(connection: Connection, digest: bytes) -> ApiKey | None:
    """Return the key with this digest, also if it is revoked or expired."""
    row = connection.execute(_BY_DIGEST, {"digest": digest}).first()
    return _read_key(row) if row is not None else None


def has_any(connection: Connection) -> bool:
    """Return True if there is a key of any owner, even a revoked or expired one."""
    return connection.scalar(_ANY) is not None


def list_keys(connection: Connection, owner: str | None) -> list[ApiKey]:
    """Return the keys of an owner, oldest first; None: of all owners, for administrators."""
    rows = connection.execute(_ALL) if owner is None else connection.execute(_OF_OWNER, {"owner": owner})
    return [_read_key(row) for row in rows]


def find_by_id(connection: Connection, id: str) -> ApiKey | None:
    """Return the key with this id."""
    row = connection.execute(_BY_ID, {"key_id": id}).first()
    return _read_key(row) if row is not None else None


def revoke_key(connection: Connection, id: str, now: datetime) -> None:
    """Note that a key ended, unless it had ended before."""
    connection.execute(_REVOKE, {"key_id": id, "now": now})


def delete_of_owner(connection: Connection, owner: str, now: datetime) -> None:
    """Delete the keys of an owner, and leave a mark without owner: a service must not open itself because of that."""
    if not connection.execute(_DELETE, {"owner": owner}).rowcount:
        return
    values = {
        "digest": _MARK,
        "id": _MARK.decode(),
        "owner": "",
        "name": None,
        "rights": "",
        "acts_for": None,
        "created_at": now,
        "expires_at": None,
        "revoked_at": now,
        "last_used_at": None,
        "max_turns": None,
        "max_tokens_a_day": None,
    }
    connection.execute(insert_or_ignore(table, connection.dialect.name), values)


def note_use(connection: Connection, id: str, before: datetime, now: datetime) -> None:
    """Note that a key was used, unless a use was noted since `before`."""
    connection.execute(_USE, {"key_id": id, "before": before, "now": now})


def _write_rights(rights: Iterable[Right]) -> str:
    return " ".join(right for right in Right if right in rights)


def _read_key(row: Any) -> ApiKey:
    try:
        rights = frozenset(Right(right) for right in row.rights.split())
    except (ValueError, AttributeError):
        # A right that only a newer release knows is no reason to grant the others.
        raise DamagedRow(
            f"key {row.id!r} has rights that this release does not know: revoke it, and make another"
        ) from None
    return ApiKey(
        id=row.id,
        owner=row.owner,
        name=row.name,
        rights=rights,
        acts_for=row.acts_for,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        max_turns=row.max_turns,
        max_tokens_a_day=row.max_tokens_a_day,
    )
