"""Read and write the marks of redacted messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, bindparam, select

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_update
from convstore.db.fork_sharing import Lineage
from convstore.db.message_rows import group_by_home
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import damaged_row
from convstore.db.tables import redactions as table
from convstore.values.identifiers import ConversationKey, Seq
from convstore.values.redaction_report import RedactionExtent, RedactionMark

_COLUMNS = (table.c.conversation_id, table.c.seq, table.c.extent, table.c.redacted_at)
_AMONG = (
    table.c.owner == bindparam("owner"),
    table.c.seq >= bindparam("first", type_=BigInteger),
    table.c.seq <= bindparam("last", type_=BigInteger),
)
_MARKS = select(*_COLUMNS).where(*_AMONG, table.c.conversation_id == bindparam("conversation_id"))
_MARKS_OF_FORK = select(*_COLUMNS).where(*_AMONG, table.c.conversation_id.in_(bindparam("homes", expanding=True)))
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


def read_marks(connection: Connection, lineage: Lineage, seqs: Collection[Seq]) -> dict[Seq, RedactionMark]:
    """Return the marks of those of some messages that were redacted, by `seq`. It takes one statement.

    Args:
        seqs: messages of the conversation or of its shared past.

    Raises:
        DamagedRow: a row cannot be decoded.
    """
    if not seqs:
        return {}
    limits = {"owner": lineage.key.owner, "first": min(seqs), "last": max(seqs)}
    if not lineage.is_fork:
        rows = connection.execute(_MARKS, {**limits, "conversation_id": lineage.key.id}).all()
        wanted = {(lineage.key.id, seq) for seq in seqs} if rows else set()
    else:
        homes = group_by_home(connection, lineage, seqs)
        wanted = {(home.id, seq) for home, kept in homes.items() for seq in kept}
        rows = connection.execute(_MARKS_OF_FORK, {**limits, "homes": sorted({home.id for home in homes})}).all()
    return {Seq(row.seq): _decode(row) for row in rows if (row.conversation_id, row.seq) in wanted}


def _decode(row: Any) -> RedactionMark:
    _check_types([row], row.conversation_id, "the mark of message seq")
    try:
        return RedactionMark(RedactionExtent(row.extent), row.redacted_at)
    except ValueError as error:
        raise damaged_row(row.conversation_id, f"the mark of message seq {row.seq}: {error}") from error
