"""Find the message at a position of a path without reading the whole path.

Each message names its ancestors at fixed distances (`STRIDES`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import CTE, BigInteger, ColumnElement, Row, bindparam, case, select, union_all

from convstore.db.connection import Connection
from convstore.db.dialect import few, join_looked_up
from convstore.db.fork_sharing import Lineage, is_kept, locate_message
from convstore.db.message_rows import STRIDES, read_head, read_messages
from convstore.db.row_errors import damaged_row
from convstore.db.tables import messages as table
from convstore.errors import InvalidInput
from convstore.values.identifiers import Position, Seq
from convstore.values.results import MessageRecord


@cache
def _ancestors_statement(dialect: str, width: int, count: int, *, ends_early: bool) -> Any:
    """Return the statement that goes up to some positions; one that may end early returns every step."""
    targets = union_all(
        *(select(bindparam(f"target_{number}", type_=BigInteger).label("target")) for number in range(count))
    ).subquery("targets")
    head = bindparam("head", type_=BigInteger)
    back = [table.c[f"back_{stride}"] for stride in STRIDES]
    start = (
        select(table.c.seq, table.c.parent_seq, table.c.position, *back, targets.c.target)
        .select_from(table.join(targets, table.c.position >= targets.c.target))
        .where(*is_kept(table, width, head), table.c.seq == head)
    )
    way: CTE = start.cte("way", recursive=True)
    following = _choose_following(way)
    conditions = (*is_kept(table, width, following), table.c.seq == following)
    joined, ancestor = join_looked_up(dialect, way, table, conditions)
    known = [ancestor.c[f"back_{stride}"] for stride in STRIDES]
    up = (
        select(ancestor.c.seq, ancestor.c.parent_seq, ancestor.c.position, *known, way.c.target)
        .select_from(joined)
        .where(few(way.c.position > way.c.target), ancestor.c.seq < way.c.seq)  # a damaged row may be its own ancestor
    )
    way = way.union_all(up)
    if ends_early:
        return select(way.c.target, way.c.seq, way.c.position, _choose_following(way).label("following"))
    return select(way.c.target, way.c.seq).where(way.c.position == way.c.target)


def _choose_following(way: CTE) -> ColumnElement[int]:
    """Return the next message on the way up: the farthest known ancestor that is not before the target."""
    strides = [
        (
            way.c[f"back_{stride}"].is_not(None) & (((way.c.position - 1) // stride) * stride >= way.c.target),
            way.c[f"back_{stride}"],
        )
        for stride in reversed(STRIDES)
    ]
    return case(*strides, else_=way.c.parent_seq)


def find_ancestors(
    connection: Connection, lineage: Lineage, head: Seq, positions: Iterable[int]
) -> dict[Position, Seq]:
    """Return the `seq` of the messages at these positions of a path, by position.

    Positions that the path does not have are left out. It takes one statement, in a chain of many forks a few. In a
    path of a million messages, about a hundred rows are read at most for each position.

    Args:
        head: the message at which the path ends; 0: the path is empty.
    """
    wanted = sorted({position for position in positions if position > 0})
    if head == 0 or not wanted:
        return {}
    part = locate_message(connection, lineage, head)
    targets = {f"target_{number}": position for number, position in enumerate(wanted)}
    statement = _ancestors_statement(connection.dialect.name, part.width, len(wanted), ends_early=bool(part.far))
    rows = connection.execute(statement, {**part.bind_message_limits(), "head": head, **targets})
    if not part.far:
        return {row.target: row.seq for row in rows}
    last: dict[int, Row[Any]] = {}
    for row in rows:
        if row.target not in last or row.position < last[row.target].position:
            last[row.target] = row
    found: dict[Position, Seq] = {row.target: row.seq for row in last.values() if row.position == row.target}
    # The other ways go on at a message that this part of the lineage does not know.
    rest: dict[Seq, list[int]] = {}
    for row in last.values():
        if row.position > row.target and not part.knows_message(row.following):
            rest.setdefault(row.following, []).append(row.target)
    for following, missed in rest.items():
        found.update(find_ancestors(connection, part, following, missed))
    return found


def is_on_path(connection: Connection, lineage: Lineage, head: Seq, position: Position, seq: Seq) -> bool:
    """Return True if message `seq` is at this position of the path to message `head`."""
    return find_ancestors(connection, lineage, head, [position]).get(position) == seq


def read_message_at(connection: Connection, lineage: Lineage, head: Seq, position: Position) -> MessageRecord:
    """Return the message at a position of the path to message `head`.

    Raises:
        InvalidInput: the path has no such position.
        DamagedRow: the path has it, but the message or one after it is missing.
    """
    (record,) = read_messages(connection, lineage, [find_message_at(connection, lineage, head, position)])
    return record


def find_message_at(connection: Connection, lineage: Lineage, head: Seq, position: Position) -> Seq:
    """Return the `seq` of the message at a position of the path to message `head`.

    Raises:
        InvalidInput: the path has no such position.
        DamagedRow: the path has it, but the message or one after it is missing.
    """
    seq = find_ancestors(connection, lineage, head, [position]).get(position)
    if seq is not None:
        return seq
    last = read_head(connection, lineage, head)
    if last is not None and 0 < position <= last.position:
        raise damaged_row(lineage.key.id, f"its path to position {position} is broken")
    raise InvalidInput(f"conversation {lineage.key.id!r} has no message at position {position}")
