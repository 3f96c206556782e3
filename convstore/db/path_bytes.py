"""Read the end of a path that has at most a number of bytes."""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, FromClause, and_, bindparam, case, func, literal, select

from convstore.db.connection import Connection
from convstore.db.dialect import NO_LIMIT, count_bytes, few
from convstore.db.fork_sharing import Lineage, is_kept, locate_message
from convstore.db.history_rows import FIRST_CLIMB_ROWS, join_message
from convstore.db.message_rows import measure_attachments, read_messages
from convstore.db.row_errors import damaged_row, missing_message
from convstore.db.tables import messages as table
from convstore.values.identifiers import NO_SEQ, Seq
from convstore.values.results import MessageRecord


@cache
def _measure_up_statement(dialect: str, width: int) -> Any:
    """Return the statement that measures a message and its ancestors, until they are too many bytes.

    It reads no content.
    """
    head = bindparam("head", type_=BigInteger)
    start = select(
        table.c.seq,
        table.c.parent_seq,
        literal(1, BigInteger).label("step"),
        _count_stored_bytes(dialect, table).label("total"),
    ).where(*is_kept(table, width, head), table.c.seq == head)
    path = start.cte("path", recursive=True)
    joined, parent = join_message(dialect, width, path, path.c.parent_seq)
    fits = and_(path.c.step < bindparam("most", type_=BigInteger), path.c.total <= bindparam("left", type_=BigInteger))
    up = (
        select(parent.c.seq, parent.c.parent_seq, path.c.step + 1, path.c.total + _count_stored_bytes(dialect, parent))
        .select_from(joined)
        .where(few(fits), parent.c.seq < path.c.seq)  # a damaged row may be its own ancestor
    )
    path = path.union_all(up)
    joined, row = join_message(dialect, width, path, path.c.seq)
    # Beside attachments, which are stored apart, the other fields are short.
    references = case((func.substr(row.c.extra, 1, 1) == "[", row.c.extra))
    return (
        select(row.c.seq, row.c.parent_seq, path.c.total, references.label("references"))
        .select_from(joined)
        .where(few(path.c.step > 0))
        .order_by(path.c.step)
    )


def _count_stored_bytes(dialect: str, row: FromClause) -> ColumnElement[int]:
    return count_bytes(dialect, row.c.content) + count_bytes(dialect, row.c.extra)


def read_path_within(
    connection: Connection, lineage: Lineage, head: Seq, limit: int | None, max_bytes: int
) -> list[MessageRecord]:
    """Return the end of the path to message `head`, in order, of at most so many bytes.

    The last message is always returned. Of what does not fit, only the first message is measured, and nothing is read.

    Args:
        limit: return at most so many messages; None: any number.
        max_bytes: the largest sum of the bytes of the stored messages, attachments as base64.

    Raises:
        DamagedRow: a message is missing or cannot be decoded.
    """
    most = NO_LIMIT if limit is None else limit
    within: list[Seq] = []
    left, wanted, part = max_bytes, head, lineage
    while wanted != NO_SEQ and len(within) < most and left >= 0:
        part = locate_message(connection, part, wanted)
        climb = min(FIRST_CLIMB_ROWS, most - len(within))
        values = {**part.bind_message_limits(), "head": wanted, "most": climb, "left": left}
        rows = connection.execute(_measure_up_statement(connection.dialect.name, part.width), values).all()
        if not rows:
            raise missing_message(lineage.key.id, wanted)
        for row in rows:
            if not (isinstance(row.parent_seq, int) and row.parent_seq < row.seq):
                raise damaged_row(lineage.key.id, f"message seq {row.seq} is its own ancestor")
        attached = measure_attachments(connection, lineage, [row.references for row in rows])
        before = left
        for row, size in zip(rows, accumulate(attached), strict=True):
            left = before - row.total - size
            if left < 0 and within:
                break
            within.append(row.seq)
        wanted = rows[-1].parent_seq
    found: list[MessageRecord] = []
    for first in range(0, len(within), FIRST_CLIMB_ROWS):
        found = [*read_messages(connection, lineage, within[first : first + FIRST_CLIMB_ROWS]), *found]
    return found
