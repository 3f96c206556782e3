"""Read and write the marks of redacted messages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, select

from convstore.db.connection import Connection
from convstore.db.dialect import NO_LIMIT, insert_or_update
from convstore.db.fork_sharing import Lineage, list_origins
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import damaged_row
from convstore.db.tables import redactions as table
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq
from convstore.values.redaction_report import RedactionExtent, RedactionMark

_COLUMNS = (table.c.seq, table.c.extent, table.c.redacted_at)
_MARKS = select(*_COLUMNS).where(
    table.c.owner == bindparam("owner"),
    table.c.conversation_id == bindparam("conversation_id"),
    table.c.seq > bindparam("after"),
    table.c.seq <= bindparam("up_to"),
)
_check_types = RowCheck(_COLUMNS)


@cache
def _mark_statement(dialect: str) -> Any:
    given = {name: bindparam(f"given_{name}", type_=table.c[name].type) for name in ("extent", "redacted_at")}
    return insert_or_update(table, given, dialect)


def mark_messages(connection: Connection, places: Sequence[tuple[ConversationKey, Seq, RedactionMark]]) -> None:
    """Note that messages were redacted.

    Args:
        places: the conversation that keeps each message, and the message.
    """
    rows = []
    for home, seq, mark in places:
        values = {"extent": mark.extent.value, "redacted_at": mark.redacted_at}
        given = {f"given_{name}": value for name, value in values.items()}
        rows.append({"owner": home.owner, "conversation_id": home.id, "seq": seq, **values, **given})
    if rows:
        connection.execute_many(_mark_statement(connection.dialect.name), rows)


def read_marks(connection: Connection, lineage: Lineage) -> dict[Seq, RedactionMark]:
    """Return the marks of a conversation's redacted messages, those of its shared past too, by `seq`.

    Raises:
        DamagedRow: a row cannot be decoded.
    """
    origins = list_origins(connection, lineage) if lineage.is_fork else ()
    homes = [(lineage.key.id, Seq(NO_LIMIT)), *((one.conversation_id, one.up_to_seq) for one in origins)]
    found: dict[Seq, RedactionMark] = {}
    for number, (id, up_to) in enumerate(homes):
        after = homes[number + 1][1] if number + 1 < len(homes) else NO_SEQ
        values = {"owner": lineage.key.owner, "conversation_id": id, "after": after, "up_to": up_to}
        rows = connection.execute(_MARKS, values).all()
        _check_types(rows, id, "the mark of message seq")
        found.update((Seq(row.seq), _decode(row, id)) for row in rows)
    return found


def _decode(row: Any, conversation_id: str) -> RedactionMark:
    try:
        return RedactionMark(RedactionExtent(row.extent), row.redacted_at)
    except ValueError as error:
        raise damaged_row(conversation_id, f"the mark of message seq {row.seq}: {error}") from error
