"""Find messages by the ids that they have as items of a conversation."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sqlalchemy import bindparam, select

from convstore.db.connection import Connection
from convstore.db.fork_sharing import Lineage, list_origins
from convstore.db.tables import messages as table
from convstore.messages.storable_text import from_column, to_column
from convstore.values.identifiers import Position, Seq

# Sorted by the program: for an order, a database would rather read the conversation by its key.
_BY_ITEM_ID = select(table.c.item_id, table.c.seq, table.c.position).where(
    table.c.owner == bindparam("owner"),
    table.c.conversation_id == bindparam("conversation_id"),
    table.c.item_id.in_(bindparam("item_ids", expanding=True)),
)


def find_by_item_ids(
    connection: Connection, lineage: Lineage, ids: Collection[str]
) -> Iterator[tuple[str, Seq, Position]]:
    """Yield the messages with some ids, in the conversation and in what it shares, each with its id; newest first."""
    columns = [to_column(id) for id in ids]
    homes: list[tuple[str, Seq | None]] = [(lineage.key.id, None)]
    homes += [(origin.conversation_id, origin.up_to_seq) for origin in list_origins(connection, lineage)]
    for conversation_id, up_to in homes:
        values = {"owner": lineage.key.owner, "conversation_id": conversation_id, "item_ids": columns}
        rows = connection.execute(_BY_ITEM_ID, values).all()
        for row in sorted(rows, key=lambda row: row.seq, reverse=True):
            if up_to is None or row.seq <= up_to:
                yield from_column(row.item_id) or "", Seq(row.seq), Position(row.position)
