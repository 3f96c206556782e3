"""Find the forks of a conversation and their forks, and write their lineages anew without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Text, bindparam, null, select, update

from convstore.db.connection import Connection
from convstore.db.fork_sharing import Lineage, Origin, read_lineage, read_nearest_origin, write_lineage
from convstore.db.search_index import replace_title
from convstore.db.tables import conversations as table
from convstore.errors import DamagedRow
from convstore.messages.first_title import is_beginning
from convstore.messages.storable_text import from_column, to_json
from convstore.values.identifiers import ConversationKey, Seq

_FORKS = select(table.c.id, table.c.lineage).where(table.c.owner == bindparam("owner"), table.c.lineage.is_not(None))
_NAMING = select(table.c.id).where(
    table.c.owner == bindparam("owner"), table.c.lineage.like(bindparam("pattern", type_=Text), escape="!")
)
_LINEAGE = select(table.c.lineage).where(table.c.owner == bindparam("owner"), table.c.id == bindparam("id"))
# In an UPDATE, SQLAlchemy keeps the parameter names of the columns.
_WRITE = (
    update(table)
    .where(table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id"))
    .values(lineage=bindparam("new_lineage", type_=table.c.lineage.type))
)

_LABELS = select(table.c.title, table.c.name, table.c.created_at).where(
    table.c.owner == bindparam("owner"), table.c.id == bindparam("id")
)
_REMOVE_TITLE = (
    update(table).where(table.c.owner == bindparam("key_owner"), table.c.id == bindparam("key_id")).values(title=null())
)
_FORGET_TITLE = (
    update(table)
    .where(
        table.c.owner == bindparam("key_owner"),
        table.c.id == bindparam("key_id"),
        table.c.made_title == bindparam("old_title", type_=table.c.made_title.type),
    )
    .values(made_title=None)
)


@dataclass(frozen=True, slots=True)
class Descendant:
    """A fork of a conversation, or a fork of such a fork."""

    key: ConversationKey
    origin: Origin
    """The conversation that it was forked from, and what it shares of it."""


def list_descendants(connection: Connection, key: ConversationKey, *, skips_damaged: bool = False) -> list[Descendant]:
    """Return the forks of a conversation and their forks, deleted ones too; each after the one that it was forked from.

    Args:
        skips_damaged: leave out those with a lineage that cannot be decoded, because they are purged too.

    Raises:
        DamagedRow: the lineage of a conversation that may be one of them cannot be decoded.
    """
    # A fork names its origin, so nothing is read of the many conversations without forks.
    if connection.execute(_NAMING.limit(1), {"owner": key.owner, "pattern": _make_pattern(key.id)}).first() is None:
        return []
    forks: dict[str, list[Descendant]] = {}
    damaged: list[tuple[str, DamagedRow]] = []
    for row in connection.execute(_FORKS, {"owner": key.owner}):
        fork = ConversationKey(key.owner, row.id)
        try:
            origin = read_nearest_origin(fork, row.lineage)
        except DamagedRow as error:
            damaged.append((str(row.lineage), error))
            continue
        if origin is not None and fork != key:
            forks.setdefault(origin.conversation_id, []).append(Descendant(fork, origin))
    for lineage, damage in damaged:
        if key.id in lineage and not skips_damaged:
            raise damage
    found: list[Descendant] = []
    waiting = [key.id]
    while waiting:
        of_this = sorted(forks.pop(waiting.pop(0), ()), key=lambda one: one.key.id)
        found += of_this
        waiting += [one.key.id for one in of_this]
    return found


def _make_pattern(id: str) -> str:
    """Return a pattern for the lineages that name a conversation."""
    written = to_json(id)[1:-1]
    for character in "!%_":
        written = written.replace(character, "!" + character)
    return f"%{written}%"


def leave_out(connection: Connection, lineage: Lineage, descendants: Sequence[Descendant]) -> None:
    """Write the lineages of a conversation's descendants anew, as if their past had never been in it.

    The forks of the conversation have what they shared of it in rows of their own.

    Args:
        lineage: the conversation's.
        descendants: as `list_descendants` returns them.
    """
    key = lineage.key
    origin = lineage.origins[0] if lineage.origins else lineage.far[0] if lineage.far else None
    made = {key.id: lineage}
    if origin is not None:
        made[origin.conversation_id] = _read(connection, ConversationKey(key.owner, origin.conversation_id))
    for one in descendants:
        if one.origin.conversation_id != key.id:
            new = made[one.origin.conversation_id].fork(one.key, one.origin.up_to_seq, one.origin.up_to_turn)
        elif origin is None:
            new = Lineage(one.key)
        else:  # it is a fork of the conversation's own origin from now on
            shared = min(one.origin.up_to_seq, origin.up_to_seq)
            new = made[origin.conversation_id].fork(one.key, shared, origin.up_to_turn)
        made[one.key.id] = new
        column = write_lineage(new) if new.is_fork else None
        connection.execute(_WRITE, {"key_owner": key.owner, "key_id": one.key.id, "new_lineage": column})


def forget_titles(
    connection: Connection, descendants: Sequence[Descendant], title: str | None, seq: Seq | None
) -> None:
    """Remove the title that a message of a conversation made from the descendants that do not have the message.

    Args:
        descendants: as `list_descendants` returns them.
        title: the title that was made, as it is stored; None: no title was made.
        seq: the message; None: it is not a message of this conversation.
    """
    if title is None or seq is None:
        return
    for key in _list_without(descendants, seq):
        connection.execute(_FORGET_TITLE, {"key_owner": key.owner, "key_id": key.id, "old_title": title})


def forget_copied_titles(
    connection: Connection, descendants: Sequence[Descendant], title: str | None, seq: Seq | None, text: str
) -> None:
    """Remove a title that is the beginning of a message from the descendants that do not have the message.

    Releases before schema 0008 stored the title that a message made as if it had been given, and forks copied it.

    Args:
        descendants: as `list_descendants` returns them.
        title: the given title of the conversation, as it is stored.
        seq: the message; None: it is not a message of this conversation.
        text: the text of the message.
    """
    if title is None or seq is None:
        return
    label = from_column(title)
    if label is None or not is_beginning(label, text):
        return
    for key in _list_without(descendants, seq):
        row = connection.execute(_LABELS, {"owner": key.owner, "id": key.id}).one()
        if row.title == title:
            connection.execute(_REMOVE_TITLE, {"key_owner": key.owner, "key_id": key.id})
            replace_title(connection, key, row.created_at, (label, row.name), (None, row.name))


def _list_without(descendants: Sequence[Descendant], seq: Seq) -> Iterator[ConversationKey]:
    """Yield the descendants that do not share a message of the conversation."""
    shared: dict[str, int] = {}
    for one in descendants:
        shared[one.key.id] = min(one.origin.up_to_seq, shared.get(one.origin.conversation_id, one.origin.up_to_seq))
        if shared[one.key.id] < seq:
            yield one.key


def _read(connection: Connection, key: ConversationKey) -> Lineage:
    values: dict[str, Any] = {"owner": key.owner, "id": key.id}
    return read_lineage(key, connection.execute(_LINEAGE, values).one().lineage)
