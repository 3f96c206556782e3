"""Which conversations have messages that are not in the search index yet.

They were stored before the index existed, or are too long to be indexed while a transaction holds the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, and_, bindparam, case, delete, exists, literal, select, update

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_ignore, insert_or_update
from convstore.db.tables import conversations
from convstore.db.tables import search_backlog as table
from convstore.values.identifiers import ConversationKey, Seq

_OF_OWNER = table.c.owner == bindparam("owner")
_ANY = select(literal(1)).where(exists().where(_OF_OWNER))
# On SQLite the index has the texts of a day in the order in which they were added: best is the order of time.
_OLDEST = (
    select(table.c.conversation_id)
    .join(conversations, and_(conversations.c.owner == table.c.owner, conversations.c.id == table.c.conversation_id))
    .where(_OF_OWNER, conversations.c.owner == bindparam("owner"))
    .order_by(conversations.c.created_at, conversations.c.id)
    .limit(bindparam("most", type_=BigInteger))
)
_STARTS = select(table.c.conversation_id, table.c.from_seq).where(
    _OF_OWNER, table.c.conversation_id.in_(bindparam("ids", expanding=True))
)
_WAITING_OWNERS = select(table.c.owner).distinct().order_by(table.c.owner)
_OWNERS = select(conversations.c.owner).distinct().order_by(conversations.c.owner)
# In an UPDATE, SQLAlchemy keeps the parameter names of the columns.
_UNCHANGED = (
    table.c.owner == bindparam("key_owner"),
    table.c.conversation_id == bindparam("key_id"),
    table.c.from_seq == bindparam("old_seq"),
)
_ADVANCE = update(table).where(*_UNCHANGED).values(from_seq=bindparam("new_seq"))
_DONE = delete(table).where(*_UNCHANGED)


@cache
def _put_statement(dialect: str) -> Any:
    given: Any = bindparam("given_seq", type_=BigInteger)
    earlier = case((table.c.from_seq < given, table.c.from_seq), else_=given)
    return insert_or_update(table, {"from_seq": earlier}, dialect)


def put_off(connection: Connection, key: ConversationKey, from_seq: Seq) -> None:
    """Note that messages of a conversation must be indexed later.

    Args:
        from_seq: the first of them; 0: the title and the name too.
    """
    values = {"owner": key.owner, "conversation_id": key.id, "from_seq": from_seq, "given_seq": from_seq}
    connection.execute(_put_statement(connection.dialect.name), values)


def put_off_whole(connection: Connection, keys: Sequence[ConversationKey]) -> None:
    """Note that conversations must be indexed later, with their titles."""
    rows = [{"owner": key.owner, "conversation_id": key.id, "from_seq": 0, "given_seq": 0} for key in keys]
    connection.execute_many(_put_statement(connection.dialect.name), rows)


def has_backlog(connection: Connection, owner: str) -> bool:
    """Return True if the owner has messages that are not in the index yet."""
    return connection.scalar(_ANY, {"owner": owner}) is not None


def list_oldest(connection: Connection, owner: str, most: int) -> list[str]:
    """Return the ids of the oldest conversations with messages to be indexed."""
    return [row.conversation_id for row in connection.execute(_OLDEST, {"owner": owner, "most": most})]


def find_starts(connection: Connection, owner: str, ids: Sequence[str]) -> dict[str, Seq]:
    """Return the first message to be indexed of each of these conversations that has one."""
    found = connection.plain.execute(_STARTS, {"owner": owner, "ids": list(ids)})
    return {row.conversation_id: Seq(row.from_seq) for row in found}


def advance(connection: Connection, owner: str, done: Sequence[tuple[str, Seq, Seq | None]]) -> None:
    """Note that messages were indexed; nothing changes where the row names another message by now.

    Args:
        done: for each conversation its id, the first message that was indexed, and the first one after it that was not;
            None: all were.
    """
    whole = [{"key_owner": owner, "key_id": id, "old_seq": old} for id, old, new in done if new is None]
    parts = [{"key_owner": owner, "key_id": id, "old_seq": old, "new_seq": new} for id, old, new in done if new]
    if whole:
        connection.execute_many(_DONE, whole)
    if parts:
        connection.execute_many(_ADVANCE, parts)


def list_owners(connection: Connection, *, waiting: bool) -> list[str]:
    """Return the owners of conversations: for administrators.

    Args:
        waiting: return only those with messages that are not in the index yet.
    """
    return [row.owner for row in connection.execute(_WAITING_OWNERS if waiting else _OWNERS)]


@cache
def _all_statement(dialect: str) -> Any:
    columns = (conversations.c.owner, conversations.c.id, literal(0, BigInteger))
    # On PostgreSQL it waits for a purge, and leaves the conversation out; without the lock, the foreign key would fail.
    rows = select(*columns).where(conversations.c.owner == bindparam("key_owner"))
    rows = rows.with_for_update(read=True, key_share=True)
    return insert_or_ignore(table, dialect).from_select(["owner", "conversation_id", "from_seq"], rows)


def put_off_all(connection: Connection, owner: str) -> None:
    """Note that all conversations of an owner must be looked through."""
    connection.execute(_all_statement(connection.dialect.name), {"key_owner": owner})
