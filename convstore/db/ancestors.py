"""Find the message at a position of a path without reading the whole path.

Each message names its ancestors at fixed distances (`STRIDES`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import CTE, BigInteger, Connection, bindparam, case, select, union_all

from convstore.db.dialect import few, join_looked_up
from convstore.db.fork_sharing import Lineage, is_kept
from convstore.db.message_rows import STRIDES, read_messages
from convstore.db.tables import messages as table
from convstore.errors import InvalidInput
from convstore.values.identifiers import Position, Seq
from convstore.values.results import MessageRecord


@cache
def _ancestors_statement(dialect: str, depth: int, count: int) -> Any:
    targets = union_all(
        *(select(bindparam(f"target_{number}", type_=BigInteger).label("target")) for number in range(count))
    ).subquery("targets")
    head = bindparam("head", type_=BigInteger)
    back = [table.c[f"back_{stride}"] for stride in STRIDES]
    start = (
        select(table.c.seq, table.c.parent_seq, table.c.position, *back, targets.c.target)
        .select_from(table.join(targets, table.c.position >= targets.c.target))
        .where(*is_kept(table, depth, head), table.c.seq == head)
    )
    way: CTE = start.cte("way", recursive=True)
    strides = [
        (
            way.c[f"back_{stride}"].is_not(None) & (((way.c.position - 1) // stride) * stride >= way.c.target),
            way.c[f"back_{stride}"],
        )
        for stride in reversed(STRIDES)
    ]
    following = case(*strides, else_=way.c.parent_seq)
    conditions = (*is_kept(table, depth, following), table.c.seq == following)
    joined, ancestor = join_looked_up(dialect, way, table, conditions)
    known = [ancestor.c[f"back_{stride}"] for stride in STRIDES]
    up = (
        select(ancestor.c.seq, ancestor.c.parent_seq, ancestor.c.position, *known, way.c.target)
        .select_from(joined)
        .where(few(way.c.position > way.c.target), ancestor.c.seq < way.c.seq)  # a damaged row may be its own ancestor
    )
    way = way.union_all(up)
    return select(way.c.target, way.c.seq).where(way.c.position == way.c.target)


def find_ancestors(
    connection: Connection, lineage: Lineage, head: Seq, positions: Iterable[int]
) -> dict[Position, Seq]:
    """Return the `seq` of the messages at these positions of a path, by position.

    Positions that the path does not have are left out. It takes one statement. In a path of a million messages, the
    statement looks at about a hundred rows at most for each position.

    Args:
        head: the message at which the path ends; 0: the path is empty.
    """
    wanted = sorted({position for position in positions if position > 0})
    if head == 0 or not wanted:
        return {}
    targets = {f"target_{number}": position for number, position in enumerate(wanted)}
    values = {**lineage.bind_message_limits(), "head": head, **targets}
    statement = _ancestors_statement(connection.dialect.name, len(lineage.origins), len(wanted))
    return {row.target: row.seq for row in connection.execute(statement, values)}


def is_on_path(connection: Connection, lineage: Lineage, head: Seq, position: Position, seq: Seq) -> bool:
    """Return True if message `seq` is at this position of the path to message `head`."""
    return find_ancestors(connection, lineage, head, [position]).get(position) == seq


def read_message_at(connection: Connection, lineage: Lineage, head: Seq, position: Position) -> MessageRecord:
    """Return the message at a position of the path to message `head`.

    Raises:
        InvalidInput: the path has no such position.
    """
    seq = find_ancestors(connection, lineage, head, [position]).get(position)
    if seq is None:
        raise InvalidInput(f"conversation {lineage.key.id!r} has no message at position {position}")
    (record,) = read_messages(connection, lineage, [seq])
    return record
