"""Read what tells whether a database is well, for `convstore doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import bindparam, func, select

from convstore.db.connection import Connection
from convstore.db.dialect import is_sqlite
from convstore.db.engine import Database
from convstore.db.tables import UtcDateTime, conversations
from convstore.values.identifiers import ConversationKey, TurnNumber

_HOLDERS = (
    select(
        conversations.c.owner,
        conversations.c.id,
        conversations.c.running_turn,
        conversations.c.lease_token,
        conversations.c.lease_expires_at,
    )
    .where(conversations.c.lease_token.is_not(None))
    .limit(bindparam("most"))
)
_LATEST = (
    select(conversations.c.id)
    .where(conversations.c.owner == bindparam("key_owner"), conversations.c.deleted_at.is_(None))
    .order_by(conversations.c.updated_at.desc())
    .limit(bindparam("most"))
)
_NEWEST = select(func.max(conversations.c.updated_at, type_=UtcDateTime())).where(
    conversations.c.owner == bindparam("key_owner")
)
_SERVER_TIME = select(func.statement_timestamp(type_=UtcDateTime()))


@dataclass(frozen=True, slots=True)
class RunningTurn:
    """A turn that holds its conversation, with its lease."""

    key: ConversationKey
    turn: TurnNumber
    token: str
    expires_at: datetime | None


def find_server_version(connection: Connection) -> str:
    """Return the kind and the version of the database, as `SQLite 3.45.1`."""
    version = connection.plain.dialect.server_version_info or ()
    return f"{'SQLite' if is_sqlite(connection) else 'PostgreSQL'} {'.'.join(map(str, version))}"


def list_running_turns(connection: Connection, most: int) -> list[RunningTurn]:
    """Return turns of all owners that hold their conversations; no more than `most`."""
    return [
        RunningTurn(ConversationKey(row.owner, row.id), row.running_turn, row.lease_token, row.lease_expires_at)
        for row in connection.execute(_HOLDERS, {"most": most}).all()
    ]


def list_latest_keys(connection: Connection, owner: str, most: int) -> list[ConversationKey]:
    """Return an owner's conversations with the latest activity, at most `most`."""
    rows = connection.execute(_LATEST, {"key_owner": owner, "most": most}).all()
    return [ConversationKey(owner, row.id) for row in rows]


def measure_clock_difference(connection: Connection, owner: str) -> float:
    """Return by how many seconds the database's clock is ahead of this host's.

    A SQLite file has no clock: the difference is how far its newest conversation lies in the future, else 0.
    """
    before = datetime.now(UTC)
    if not is_sqlite(connection):
        server: datetime = connection.plain.execute(_SERVER_TIME).scalar_one()
        return (server - before).total_seconds()
    newest = connection.plain.execute(_NEWEST, {"key_owner": owner}).scalar_one()
    return max(0.0, (newest - before).total_seconds()) if isinstance(newest, datetime) else 0.0


def check_sqlite_file(database: Database) -> str | None:
    """Return what SQLite's quick check finds in the file first, or None."""
    with database.read(keeps_bytes=True) as connection:
        found = connection.plain.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    return None if found == "ok" else str(found)
