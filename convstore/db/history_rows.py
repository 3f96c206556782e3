"""Paths of the tree that messages form: read to the root, or as far as a window needs; and found by position.

Between a message and its past there may lie what is off its path, and of a fork the past is kept in other
conversations. So a path is climbed by its parents in one recursive query, which stops where it is told to. Only where
nothing limits it is a plain descending scan of the primary key faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Row,
    and_,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    select,
    true,
    union_all,
)

from convstore.db.engine import EVERYTHING, few
from convstore.db.fork_sharing import Lineage, kept_in
from convstore.db.message_rows import COLUMNS, STRIDES, missing, records
from convstore.db.tables import messages as table
from convstore.values.results import MessageRecord

# How far beyond the rows it wants a scan goes before a recursive query takes over: failed turns and siblings near the
# head are stepped over for the price of a few rows.
_SLACK = 16
_LEAST_TOKENS = 4  # of a message that an earlier release stored uncounted, with one for every eight characters

_KEY = (table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("conversation_id"))
_DOWN = select(*COLUMNS).where(*_KEY, table.c.seq <= bindparam("head")).order_by(table.c.seq.desc())
_DOWN_LIMITED = _DOWN.limit(bindparam("most"))


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back from its head a path is read: until the first of these is reached."""

    messages: int = EVERYTHING
    turns: int = EVERYTHING
    """Turns begin at a user's message that no other follows directly upon; one message more is read."""
    tokens: int = EVERYTHING
    """Read up to the first message with which there are more."""
    after_position: int = 0
    """Only what stands after this position."""


def _with_row(dialect: str, depth: int, many: FromClause, seq: ColumnElement[int]) -> tuple[FromClause, FromClause]:
    """Return the rows of a query joined with that of the message whose number they have in `seq`; and that row.

    However many messages there are, each is to be looked up by the primary key. SQLite does so where it takes the rows
    for few (`few`). PostgreSQL, until it has statistics of a table that has grown, takes all of a conversation for one
    row, and would read it whole for each of them: unless the row is looked up by a query of its own.
    """
    conditions = (*kept_in(table, depth, seq), table.c.seq == seq)
    if dialect == "sqlite":
        return many.join(table, and_(*conditions)), table
    row = select(table).where(*conditions).limit(literal_column("1")).lateral("looked_up")
    return many.join(row, true()), row


@cache
def _climb(dialect: str, depth: int) -> Any:
    """From a message up, by its parents: as far as a `Reach` goes."""
    start = select(
        table.c.seq,
        table.c.parent_seq,
        table.c.position,
        table.c.role,
        literal(1, BigInteger).label("step"),
        literal(0, BigInteger).label("turns"),
        _tokens(table).label("total"),
    ).where(
        *kept_in(table, depth, bindparam("head", type_=BigInteger)),
        table.c.seq == bindparam("head", type_=BigInteger),
    )
    path = start.cte("path", recursive=True)
    joined, parent = _with_row(dialect, depth, path, path.c.parent_seq)
    begins_turn = case(((path.c.role == "user") & (parent.c.role != "user"), 1), else_=0)
    up = (
        select(
            parent.c.seq,
            parent.c.parent_seq,
            parent.c.position,
            parent.c.role,
            path.c.step + 1,
            path.c.turns + begins_turn,
            path.c.total + _tokens(parent),
        )
        .select_from(joined)
        .where(
            few(path.c.step < bindparam("most", type_=BigInteger)),
            path.c.turns < bindparam("turns", type_=BigInteger),
            path.c.total <= bindparam("tokens", type_=BigInteger),
            path.c.position > bindparam("after", type_=BigInteger) + 1,
        )
    )
    path = path.union_all(up)
    joined, row = _with_row(dialect, depth, path, path.c.seq)
    return (
        select(*(row.c[column.name] for column in COLUMNS))
        .select_from(joined)
        .where(few(path.c.step > 0))
        .order_by(path.c.step)
    )


def _tokens(row: FromClause) -> ColumnElement[int]:
    length = func.coalesce(func.length(row.c.content, type_=BigInteger), 0)
    return func.coalesce(row.c.tokens, _LEAST_TOKENS + length // 8)


def path(connection: Connection, lineage: Lineage, head: int, limit: int | None = None) -> list[MessageRecord]:
    """Return the path that ends at message `head` (0: an empty one), in order; of a long one the last `limit`.

    One descending scan of the primary key follows the parents and steps over what is not on the path. Only if a parent
    lies far below, or elsewhere, does one recursive query fetch the rest: never more than two statements.

    Raises:
        DamagedRow: a message of the path is missing, or cannot be decoded.
    """
    if head == 0 or limit == 0:
        return []
    wanted = head
    found: list[Row[Any]] = []
    if not lineage.origins:
        found, wanted = _scan(connection, lineage, head, limit)
    if wanted != 0 and (limit is None or len(found) < limit):
        most = EVERYTHING if limit is None else limit - len(found)
        rest = _rows(connection, lineage, wanted, Reach(messages=most))
        found.extend(rest)
        wanted = rest[-1].parent_seq if rest else wanted
        if wanted != 0 and (limit is None or len(found) < limit):
            raise missing(lineage.conversation_id, wanted)
    return records(connection, found[::-1], lineage)


def _scan(connection: Connection, lineage: Lineage, head: int, limit: int | None) -> tuple[list[Row[Any]], int]:
    """Return what a scan finds of a path, latest first, and the parent that it did not come to; 0: it found all."""
    key = {"owner": lineage.owner, "conversation_id": lineage.conversation_id, "head": head}
    if limit is None:
        scan = connection.execute(_DOWN, key)
    else:
        scan = connection.execute(_DOWN_LIMITED, {**key, "most": limit + _SLACK})
    found: list[Row[Any]] = []
    wanted = head
    with scan:
        for row in scan:
            if row.seq == wanted:
                found.append(row)
                wanted = row.parent_seq
                if wanted == 0 or len(found) == limit:
                    break
    return found, wanted


def suffix(connection: Connection, lineage: Lineage, head: int, reach: Reach) -> list[MessageRecord]:
    """Return the end of the path to message `head`, in order, as far back as `reach` goes: at least the head.

    One statement; it reads the rows that it returns, whatever lies before them.

    Raises:
        DamagedRow: a message is missing, or cannot be decoded.
    """
    if head == 0:
        return []
    rows = _rows(connection, lineage, head, reach)
    if not rows:
        raise missing(lineage.conversation_id, head)
    return records(connection, rows[::-1], lineage)


def _rows(connection: Connection, lineage: Lineage, head: int, reach: Reach) -> Sequence[Row[Any]]:
    values = {
        **lineage.bound(),
        "head": head,
        "most": reach.messages,
        "turns": reach.turns,
        "tokens": reach.tokens,
        "after": reach.after_position,
    }
    return connection.execute(_climb(connection.dialect.name, len(lineage.origins)), values).all()


_TREE = (
    select(*COLUMNS)
    .where(*_KEY, table.c.seq > bindparam("first"), table.c.seq <= bindparam("last"))
    .order_by(table.c.seq)
)


def tree(connection: Connection, lineage: Lineage) -> list[MessageRecord]:
    """Return every message of a conversation, and of its past in others, by `seq`: whatever path it is on."""
    found: list[MessageRecord] = []
    first = 0
    last_here = [(origin.conversation_id, origin.up_to_seq) for origin in reversed(lineage.origins)]
    for home, last in (*last_here, (lineage.conversation_id, EVERYTHING)):
        values = {"owner": lineage.owner, "conversation_id": home, "first": first, "last": last}
        found.extend(records(connection, connection.execute(_TREE, values).all(), lineage))
        first = last
    return found


@cache
def _context_statement(dialect: str, depth: int) -> Any:
    start = select(table.c.seq, table.c.context_seq).where(
        *kept_in(table, depth, bindparam("from", type_=BigInteger)),
        table.c.seq == bindparam("from", type_=BigInteger),
    )
    chain = start.cte("chain", recursive=True)
    joined, before = _with_row(dialect, depth, chain, chain.c.context_seq)
    up = select(before.c.seq, before.c.context_seq).select_from(joined).where(few(chain.c.context_seq > 0))
    chain = chain.union_all(up)
    joined, row = _with_row(dialect, depth, chain, chain.c.seq)
    return (
        select(*(row.c[column.name] for column in COLUMNS))
        .select_from(joined)
        .where(few(chain.c.seq > 0))
        .order_by(chain.c.seq)
    )


def context(connection: Connection, lineage: Lineage, first: MessageRecord) -> list[MessageRecord]:
    """Return the system and developer messages on the path before the message `first`, in order.

    Raises:
        DamagedRow: one is missing, or cannot be decoded.
    """
    if first.context_seq == 0:
        return []
    values = {**lineage.bound(), "from": first.context_seq}
    statement = _context_statement(connection.dialect.name, len(lineage.origins))
    found = records(connection, connection.execute(statement, values).all(), lineage)
    if not found or found[0].context_seq != 0:
        raise missing(lineage.conversation_id, found[0].context_seq if found else first.context_seq)
    return found


@cache
def _ancestors_statement(dialect: str, depth: int, count: int) -> Any:
    targets = union_all(
        *(select(bindparam(f"target_{number}", type_=BigInteger).label("target")) for number in range(count))
    ).subquery("targets")
    back = [table.c[f"back_{stride}"] for stride in STRIDES]
    start = (
        select(table.c.seq, table.c.parent_seq, table.c.position, *back, targets.c.target)
        .select_from(table.join(targets, table.c.position >= targets.c.target))
        .where(
            *kept_in(table, depth, bindparam("head", type_=BigInteger)),
            table.c.seq == bindparam("head", type_=BigInteger),
        )
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
    joined, ancestor = _with_row(dialect, depth, way, following)
    known = [ancestor.c[f"back_{stride}"] for stride in STRIDES]
    up = (
        select(ancestor.c.seq, ancestor.c.parent_seq, ancestor.c.position, *known, way.c.target)
        .select_from(joined)
        .where(few(way.c.position > way.c.target))
    )
    way = way.union_all(up)
    return select(way.c.target, way.c.seq).where(way.c.position == way.c.target)


def ancestors(connection: Connection, lineage: Lineage, head: int, positions: Iterable[int]) -> dict[int, int]:
    """Return the `seq` of the messages at these positions of the path to message `head`, by position.

    Positions that the path does not have are left out. One statement; for each position it looks at no more than
    about a hundred rows in a path of a million messages.
    """
    wanted = sorted({position for position in positions if position > 0})
    if head == 0 or not wanted:
        return {}
    values = {**lineage.bound(), "head": head, **{f"target_{number}": seq for number, seq in enumerate(wanted)}}
    statement = _ancestors_statement(connection.dialect.name, len(lineage.origins), len(wanted))
    found = connection.execute(statement, values)
    return {row.target: row.seq for row in found}
