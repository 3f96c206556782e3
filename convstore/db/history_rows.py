"""Read paths of the tree: whole, or as far back as a window needs.

Messages off a path have numbers between those of the path, and the past of a fork is kept in other conversations. So
one recursive query reads a path from parent to parent and stops at its limit. A descending scan of the primary key is
faster where few messages off the path lie between. `read_path` chooses between them, so that it never reads many more
rows than it returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Row,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal,
    select,
)

from convstore.db.connection import Connection
from convstore.db.dialect import NO_LIMIT, few, join_looked_up
from convstore.db.fork_sharing import Lineage, is_kept, list_origins, locate_message
from convstore.db.head_rows import Head
from convstore.db.message_rows import (
    COLUMNS,
    MESSAGE_COLUMNS,
    PathMessage,
    check_path_types,
    check_rows,
    decode_path,
    decode_rows,
    decode_rows_with_parents,
    select_parent_digest,
)
from convstore.db.row_errors import missing_message
from convstore.db.tables import messages as table
from convstore.values.identifiers import NO_SEQ, Position, Seq
from convstore.values.results import MessageRecord

# A scan reads this many rows more than it needs. So it can skip a few failed turns and siblings near the head before a
# recursive query has to read the rest.
_SLACK_ROWS = 16
_FIRST_SCAN_ROWS = 64  # before the number of messages of the path is known
FIRST_CLIMB_ROWS = 256
_MIN_TOKENS = 4  # assumed for a message without a stored count, plus one token for each eight characters

_IN_CONVERSATION = (table.c.owner == bindparam("owner"), table.c.conversation_id == bindparam("conversation_id"))


def _select_down(*columns: ColumnElement[Any]) -> Select[Any]:
    """Return the statement that scans a conversation from a message down; its rows begin with `seq` and its parent."""
    return (
        select(*columns)
        .where(*_IN_CONVERSATION, table.c.seq <= bindparam("head"))
        .order_by(table.c.seq.desc())
        .limit(bindparam("most"))
    )


_DOWN, _MESSAGES_DOWN = _select_down(*COLUMNS), _select_down(*MESSAGE_COLUMNS)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far to read a path back from its head; the first limit reached ends it."""

    messages: int = NO_LIMIT
    turns: int = NO_LIMIT
    """A turn begins at a user message that does not follow another user message. One more message is read."""
    tokens: int = NO_LIMIT
    """The last message that is read is the one that exceeds this number of tokens."""
    after_position: int = 0
    """Read only messages after this position."""


@cache
def _read_up_statement(dialect: str, width: int) -> Any:
    """Return the statement that reads a message and its ancestors within a `Reach`, and the next ancestor.

    The first message within the reach is checked against the digest of the next ancestor.
    """
    head = bindparam("head", type_=BigInteger)
    follows_user = bindparam("follows_user", type_=BigInteger) == 1
    start = select(
        table.c.seq,
        table.c.parent_seq,
        table.c.position,
        table.c.role,
        literal(1, BigInteger).label("step"),
        case((follows_user & (table.c.role != "user"), 1), else_=0).label("turns"),
        _count_tokens(table).label("total"),
        bindparam("is_within", type_=BigInteger).label("is_within"),
    ).where(*is_kept(table, width, head), table.c.seq == head)
    path = start.cte("path", recursive=True)
    joined, parent = join_message(dialect, width, path, path.c.parent_seq)
    begins_turn = case(((path.c.role == "user") & (parent.c.role != "user"), 1), else_=0)
    goes_on = and_(
        path.c.step < bindparam("most", type_=BigInteger),
        path.c.turns < bindparam("turns", type_=BigInteger),
        path.c.total <= bindparam("tokens", type_=BigInteger),
        path.c.position > bindparam("after", type_=BigInteger) + 1,
    )
    up = (
        select(
            parent.c.seq,
            parent.c.parent_seq,
            parent.c.position,
            parent.c.role,
            path.c.step + 1,
            path.c.turns + begins_turn,
            path.c.total + _count_tokens(parent),
            case((goes_on, literal(1, BigInteger)), else_=literal(0, BigInteger)),
        )
        .select_from(joined)
        .where(
            few(path.c.is_within == 1),
            parent.c.seq < path.c.seq,  # a damaged row may be its own ancestor
        )
    )
    path = path.union_all(up)
    joined, row = join_message(dialect, width, path, path.c.seq)
    return (
        select(*(row.c[column.name] for column in COLUMNS), path.c.is_within)
        .select_from(joined)
        .where(few(path.c.step > 0))
        .order_by(path.c.step)
    )


def join_message(dialect: str, width: int, many: FromClause, seq: ColumnElement[int]) -> tuple[FromClause, FromClause]:
    return join_looked_up(dialect, many, table, (*is_kept(table, width, seq), table.c.seq == seq))


def _count_tokens(row: FromClause) -> ColumnElement[int]:
    length = func.coalesce(func.length(row.c.content, type_=BigInteger), 0)
    return func.coalesce(row.c.tokens, _MIN_TOKENS + length // 8)


def read_path(
    connection: Connection, lineage: Lineage, head: Seq, limit: int | None = None, *, position: Position | None = None
) -> list[MessageRecord]:
    """Return the path that ends at message `head`, in order.

    It usually takes one or two statements, and reads at most about twice the rows that it returns. There are more
    statements if some parts of a long path are dense and others are sparse, or for each 16 forks of a chain.

    Args:
        head: 0: the path is empty.
        limit: return only this many messages, the last ones.
        position: the position of the head, if it is known; this may save a statement.

    Raises:
        DamagedRow: a message of the path is missing or cannot be decoded.
    """
    if head == 0 or limit == 0:
        return []
    most = NO_LIMIT if limit is None else limit + 1  # the first message is checked against the one before it
    found: list[Row[Any]] = []
    wanted = head
    climb = most - 1 if lineage.is_fork else FIRST_CLIMB_ROWS
    scans = not lineage.is_fork
    while wanted != 0 and len(found) < most:
        rows: Sequence[Row[Any]] = ()
        before = found[-1].position - 1 if found else position
        left = min(most - len(found), before if before is not None else _FIRST_SCAN_ROWS)
        if scans and (before is None or wanted <= 2 * before + _SLACK_ROWS):
            rows = _scan(connection, lineage, wanted, left)
            scans = 2 * len(rows) >= left  # the path may be dense on the whole, and not here
        if not rows:
            rows = _read_up(connection, lineage, wanted, Reach(messages=max(1, min(climb, most - 1 - len(found)))))
            climb = min(2 * climb, NO_LIMIT)
        if not rows:
            raise missing_message(lineage.key.id, wanted)
        found.extend(rows)
        wanted = rows[-1].parent_seq
    within, before = (found, []) if limit is None else (found[:limit], found[limit:])
    return decode_rows(connection, within[::-1], lineage, _list_digests(before))


def _list_digests(rows: Iterable[Row[Any]]) -> dict[int, bytes]:
    return {row.seq: row.digest for row in rows}


def _scan(connection: Connection, lineage: Lineage, head: Seq, most: int) -> list[Row[Any]]:
    """Return the rows of a path that a scan finds before it misses one, latest first."""
    values = _bind_scan(lineage, head, most)
    found = connection.execute_and_choose(_DOWN, values, lambda rows: _take_path(rows, head, most))
    check_rows(found, lineage)
    return found


def _bind_scan(lineage: Lineage, head: Seq, most: int) -> dict[str, Any]:
    return {
        "owner": lineage.key.owner,
        "conversation_id": lineage.key.id,
        "head": head,
        "most": most + _SLACK_ROWS,
    }


def _take_path(rows: Iterable[Any], head: Seq, most: int) -> list[Any]:
    """Return the rows of the path among scanned ones, up to the first that is missing, or to `most`."""
    found: list[Any] = []
    wanted: int = head
    for row in rows:
        if row[0] == wanted:
            found.append(row)
            wanted = row[1]
            if wanted == 0 or len(found) == most:
                break
    return found


def read_path_messages(connection: Connection, lineage: Lineage, head: Head) -> list[PathMessage]:
    """Return the messages of the path that ends at `head`, in order: faster than `read_path`.

    Raises:
        DamagedRow: a message of the path is missing or cannot be decoded.
    """
    most = head.position
    rows: list[tuple[Any, ...]] = []
    if head.seq and not lineage.is_fork and head.seq <= 2 * most + _SLACK_ROWS:
        scanned = connection.fetch(_MESSAGES_DOWN, _bind_scan(lineage, head.seq, most))
        rows = _take_path(scanned, head.seq, most)
    check_path_types(rows, lineage)
    first = Seq(rows[-1][1]) if rows else head.seq
    before = read_path(connection, lineage, first, position=Position(most - len(rows)))
    found = [PathMessage(record.message, record.position, record.turn) for record in before]
    found += decode_path(connection, rows[::-1], lineage, before[-1] if before else None)
    return found


def read_path_end(connection: Connection, lineage: Lineage, head: Seq, reach: Reach) -> list[MessageRecord]:
    """Return the end of the path to message `head`, in order, within `reach`.

    The head is always returned. It takes one statement, which reads only the rows that it returns; in a chain of many
    forks one more for each 16.

    Raises:
        DamagedRow: a message is missing or cannot be decoded.
    """
    if head == 0:
        return []
    rows = _read_up(connection, lineage, head, reach)
    if not rows:
        raise missing_message(lineage.key.id, head)
    within = [row for row in rows if row.is_within]
    return decode_rows(connection, within[::-1], lineage, _list_digests(rows[len(within) :]))


def _read_up(connection: Connection, lineage: Lineage, head: Seq, reach: Reach) -> Sequence[Row[Any]]:
    """Return the rows from message `head` back within `reach`, and the row before them if there is one.

    A message is missing if the last row is within the reach and has a parent.
    """
    found: list[Row[Any]] = []
    while True:
        lineage = locate_message(connection, lineage, head)
        values = {**lineage.bind_message_limits(), "head": head, **_bind_reach(reach, found)}
        rows = connection.execute(_read_up_statement(connection.dialect.name, lineage.width), values).all()
        check_rows(rows, lineage)
        found.extend(rows)
        if not rows or not rows[-1].is_within or lineage.knows_message(rows[-1].parent_seq):
            return found
        head = rows[-1].parent_seq


def _bind_reach(reach: Reach, found: Sequence[Row[Any]]) -> dict[str, int]:
    """Return the parameters for the part of a reach that is left after the rows found so far."""
    left = Reach(
        messages=reach.messages - len(found),
        turns=reach.turns - sum(row.role == "user" and before.role != "user" for row, before in pairwise(found)),
        tokens=reach.tokens - sum(map(_count_row_tokens, found)),
    )
    last = found[-1] if found else None
    goes_on = last is None or (
        left.messages > 0 and left.turns > 0 and left.tokens >= 0 and last.position > reach.after_position + 1
    )
    return {
        "most": left.messages,
        "turns": left.turns,
        "tokens": left.tokens,
        "after": reach.after_position,
        "follows_user": int(last is not None and last.role == "user"),
        "is_within": int(goes_on),
    }


def _count_row_tokens(row: Row[Any]) -> int:
    return row.tokens if row.tokens is not None else _MIN_TOKENS + len(row.content or "") // 8


_TREE: Select[Any] = (
    select(*COLUMNS, select_parent_digest(table))
    .where(*_IN_CONVERSATION, table.c.seq > bindparam("first"), table.c.seq <= bindparam("last"))
    .order_by(table.c.seq)
    .limit(bindparam("most"))
)

_TREE_DIGESTS: Select[Any] = select(table.c.digest).where(
    *_IN_CONVERSATION, table.c.seq <= bindparam("last", type_=BigInteger)
)


def read_digests(connection: Connection, lineage: Lineage) -> list[bytes]:
    """Return the digests of the messages of a conversation and of its shared past."""
    origins = [(origin.conversation_id, int(origin.up_to_seq)) for origin in list_origins(connection, lineage)]
    found: list[bytes] = []
    for home, last in (*origins, (lineage.key.id, NO_LIMIT)):
        values = {"owner": lineage.key.owner, "conversation_id": home, "last": last}
        found += [row.digest for row in connection.execute(_TREE_DIGESTS, values)]
    return found


def read_tree(
    connection: Connection, lineage: Lineage, after: Seq = NO_SEQ, limit: int = NO_LIMIT
) -> list[MessageRecord]:
    """Return the messages of a conversation and of its shared past, by `seq`.

    Args:
        after: return only messages with a greater `seq`.
        limit: the maximum number of messages.
    """
    found: list[MessageRecord] = []
    digests: dict[int, bytes] = {}
    complete = Lineage(lineage.key, tuple(list_origins(connection, lineage)))
    shared = [(origin.conversation_id, int(origin.up_to_seq)) for origin in reversed(complete.origins)]
    for home, last in (*shared, (lineage.key.id, NO_LIMIT)):
        if after < last and len(found) < limit:
            values = {"owner": lineage.key.owner, "conversation_id": home, "first": after, "last": last}
            rows = connection.execute(_TREE, {**values, "most": limit - len(found)}).all()
            found.extend(decode_rows_with_parents(connection, rows, complete, digests))
            digests.update(_list_digests(rows))
            after = Seq(last)
    return found


@cache
def _context_statement(dialect: str, width: int) -> Any:
    first = bindparam("from", type_=BigInteger)
    start = select(table.c.seq, table.c.context_seq).where(*is_kept(table, width, first), table.c.seq == first)
    chain = start.cte("chain", recursive=True)
    joined, before = join_message(dialect, width, chain, chain.c.context_seq)
    up = (
        select(before.c.seq, before.c.context_seq)
        .select_from(joined)
        .where(few(chain.c.context_seq > 0), before.c.seq < chain.c.seq)
    )
    chain = chain.union_all(up)
    joined, row = join_message(dialect, width, chain, chain.c.seq)
    return (
        select(*(row.c[column.name] for column in COLUMNS), select_parent_digest(row))
        .select_from(joined)
        .where(few(chain.c.seq > 0))
        .order_by(chain.c.seq)
    )


def read_context_messages(connection: Connection, lineage: Lineage, first: MessageRecord) -> list[MessageRecord]:
    """Return the system and developer messages before `first` on its path, in order.

    Raises:
        DamagedRow: a message is missing or cannot be decoded.
    """
    found: list[MessageRecord] = []
    wanted = first.context_seq
    while wanted != 0:
        lineage = locate_message(connection, lineage, wanted)
        values = {**lineage.bind_message_limits(), "from": wanted}
        rows = connection.execute(_context_statement(connection.dialect.name, lineage.width), values).all()
        if not rows:
            raise missing_message(lineage.key.id, wanted)
        found = [*decode_rows_with_parents(connection, rows, lineage), *found]
        wanted = found[0].context_seq
    return found
