"""Read what a search looks at: the newest texts one after another, or those that have some terms."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, select, text, tuple_
from sqlalchemy.types import ARRAY, BigInteger, Integer

from convstore.db.connection import Connection
from convstore.db.dialect import NO_LIMIT, count_bytes, is_sqlite
from convstore.db.fork_sharing import Lineage, read_lineage
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import damaged_row
from convstore.db.search_index import (
    DAY_BITS,
    MICROSECONDS_PER_DAY,
    TERMS_TABLE,
    DocumentKey,
    IndexKind,
    count_microseconds,
    find_first_docid,
    find_kind,
    hash_term,
    make_owner_term,
    make_prefix_term,
)
from convstore.db.tables import conversations, messages, turns
from convstore.db.tables import search_documents as table
from convstore.errors import DamagedRow
from convstore.messages.codec import StoredMessage, decode_without_attachments
from convstore.messages.message import Message
from convstore.messages.storable_text import from_column
from convstore.values.identifiers import ConversationKey, Seq

_logger = logging.getLogger(__name__)

# The times that Python has are within these, and so are the numbers of documents made of them.
_FIRST_KEY: DocumentKey = (-(2**56), "", Seq(0))
_LAST_KEY: DocumentKey = (2**58, "", Seq(0))
_KEY = (table.c.created_us, table.c.conversation_id, table.c.seq)
_NEWEST_FIRST = tuple(column.desc() for column in _KEY)
_BEFORE = tuple_(
    bindparam("before_us", type_=BigInteger), bindparam("before_id"), bindparam("before_seq", type_=BigInteger)
)
_AFTER = tuple_(
    bindparam("after_us", type_=BigInteger), bindparam("after_id"), bindparam("after_seq", type_=BigInteger)
)
_IN_SPAN = (
    table.c.owner == bindparam("owner"),
    table.c.created_us >= bindparam("since_us", type_=BigInteger),
    table.c.created_us <= bindparam("until_us", type_=BigInteger),  # for the index; the next condition is exact
    tuple_(*_KEY) < _BEFORE,
)
_ALWAYS: tuple[ColumnElement[Any], ...] = (
    *_KEY,
    conversations.c.title,
    conversations.c.name,
    conversations.c.head_seq,
    conversations.c.lineage,
    conversations.c.deleted_at,
)
_OF_MESSAGE: tuple[ColumnElement[Any], ...] = (
    messages.c.role,
    messages.c.name.label("author"),
    messages.c.content,
    messages.c.extra,
    messages.c.position,
)
_OF_TURN: tuple[ColumnElement[Any], ...] = (turns.c.status, turns.c.model, turns.c.requested_model)
_COLUMNS = (*_ALWAYS, *_OF_MESSAGE, *_OF_TURN)
_check_always, _check_message, _check_turn = RowCheck(_ALWAYS), RowCheck(_OF_MESSAGE), RowCheck(_OF_TURN)
_JOINED = (
    table.join(
        conversations,
        (conversations.c.owner == bindparam("owner")) & (conversations.c.id == table.c.conversation_id),
    )
    .outerjoin(
        messages,
        (messages.c.owner == bindparam("owner"))
        & (messages.c.conversation_id == table.c.conversation_id)
        & (messages.c.seq == table.c.seq),
    )
    .outerjoin(
        turns,
        (turns.c.owner == bindparam("owner"))
        & (turns.c.conversation_id == table.c.conversation_id)
        & (turns.c.seq == messages.c.turn_seq),
    )
)
_NEWEST = (
    select(*_COLUMNS)
    .select_from(_JOINED)
    .where(*_IN_SPAN)
    .order_by(*_NEWEST_FIRST)
    .limit(bindparam("most", type_=BigInteger))
)
_IS_THIS = (
    table.c.owner == bindparam("owner"),
    table.c.created_us == bindparam("created_us"),
    table.c.conversation_id == bindparam("conversation_id"),
    table.c.seq == bindparam("seq"),
)
_THIS = select(*_COLUMNS).select_from(_JOINED).where(*_IS_THIS)
_THESE = (
    select(*_COLUMNS)
    .select_from(_JOINED)
    .where(table.c.owner == bindparam("owner"), tuple_(*_KEY).in_(bindparam("keys", expanding=True)))
)
_CONVERSATION = select(conversations.c.lineage, conversations.c.deleted_at).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_TITLE = select(conversations.c.created_at, conversations.c.title, conversations.c.name).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_OF_CONVERSATION = (
    messages.c.owner == bindparam("owner"),
    messages.c.conversation_id == bindparam("conversation_id"),
    messages.c.seq >= bindparam("from_seq"),
)
_MESSAGE_COLUMNS = (
    messages.c.seq,
    messages.c.created_at,
    messages.c.role,
    messages.c.name.label("author"),
    messages.c.content,
    messages.c.extra,
)
_check_message_types = RowCheck(_MESSAGE_COLUMNS)
_BETWEEN = (
    select(*_MESSAGE_COLUMNS)
    .where(*_OF_CONVERSATION, messages.c.seq <= bindparam("to_seq", type_=BigInteger))
    .order_by(messages.c.seq)
)
_KNOWN = select(*_KEY).where(*_IS_THIS)
_ALL_KNOWN = select(*_KEY).where(
    table.c.owner == bindparam("owner"), tuple_(*_KEY).in_(bindparam("keys", expanding=True))
)
_BATCH_MESSAGES, _BATCH_BYTES = 500, 4_000_000
_LIVING_FORKS = (
    select(conversations.c.id, conversations.c.lineage, conversations.c.title, conversations.c.head_seq)
    .where(
        conversations.c.owner == bindparam("owner"),
        conversations.c.lineage.is_not(None),
        conversations.c.deleted_at.is_(None),
    )
    .order_by(conversations.c.updated_at.desc(), conversations.c.id.desc())
)
_KEYS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an owner's texts, by time."""

    owner: str
    since_us: int
    before: DocumentKey
    """The texts before this one are in it, not this one itself."""

    def bind(self) -> dict[str, Any]:
        """Return the parameters of `_IN_SPAN`."""
        return {
            "owner": self.owner,
            "since_us": self.since_us,
            "until_us": self.before[0],
            "before_us": self.before[0],
            "before_id": self.before[1],
            "before_seq": self.before[2],
        }


@dataclass(frozen=True, slots=True)
class Fork:
    """A living fork."""

    lineage: Lineage
    title: str | None
    head: Seq


@dataclass(frozen=True, slots=True)
class TermFilter:
    """Terms that select texts."""

    terms: frozenset[str]
    """A text must have all of them."""
    prefixes: frozenset[str]
    """A text must have a word that begins with each of them; `make_prefix_term` has a term for each."""
    alternatives: frozenset[str]
    """A text must have one of these terms; empty: it need not."""

    @property
    def is_empty(self) -> bool:
        """Whether it selects all texts."""
        return not (self.terms or self.alternatives or self.prefixes)


def make_span(owner: str, since_us: int | None, before: DocumentKey | None) -> Span:
    """Return the texts since a time and before a text; None: all of that side."""
    return Span(owner, _FIRST_KEY[0] if since_us is None else since_us, before or _LAST_KEY)


@cache
def _sizes_statement(dialect: str) -> Any:
    size = count_bytes(dialect, messages.c.content) + count_bytes(dialect, messages.c.extra)
    return (
        select(messages.c.seq, size.label("size"))
        .where(*_OF_CONVERSATION)
        .order_by(messages.c.seq)
        .limit(bindparam("most", type_=BigInteger))
    )


def read_lineage_column(
    connection: Connection, owner: str, conversation_id: str, *, deleted: bool
) -> tuple[str | None] | None:
    """Return the lineage of a conversation as it is stored, in a tuple; None if the conversation does not exist.

    Args:
        deleted: whether it may be a deleted conversation.
    """
    row = connection.execute(_CONVERSATION, {"owner": owner, "id": conversation_id}).first()
    return (row.lineage,) if row is not None and (deleted or row.deleted_at is None) else None


def read_title(connection: Connection, key: ConversationKey) -> tuple[datetime, str | None, str | None]:
    """Return when a conversation was created, its title and its name."""
    row = connection.execute(_TITLE, {"owner": key.owner, "id": key.id}).one()
    return row.created_at, from_column(row.title), row.name


def read_unindexed(
    connection: Connection, key: ConversationKey, from_seq: Seq
) -> tuple[list[tuple[DocumentKey, Message]], Seq | None]:
    """Return messages of a conversation for the index, without attachments, and the first of the next ones or None.

    Damaged ones are left out.
    """
    values = {"owner": key.owner, "conversation_id": key.id, "from_seq": from_seq, "most": _BATCH_MESSAGES + 1}
    sizes = connection.execute(_sizes_statement(connection.dialect.name), values).all()
    total, end, rest = 0, from_seq, None
    for number, (seq, size) in enumerate(sizes):
        total += size
        if number == _BATCH_MESSAGES or (number and total > _BATCH_BYTES):
            rest = Seq(seq)
            break
        end = Seq(seq)
    found = []
    for row in connection.execute(_BETWEEN, {**values, "to_seq": end}).all():
        try:
            _check_message_types([row], key.id, "message seq")
            document = count_microseconds(row.created_at), key.id, Seq(row.seq)
            found.append((document, decode_searched(row, key.id)))
        except DamagedRow:  # it cannot be found, and whoever reads it is told
            _logger.warning("search: message seq %s of conversation %s is damaged and not indexed", row.seq, key.id)
    return found, rest


def decode_searched(row: Any, conversation_id: str) -> Message:
    """Return the message of a row, without its attachments.

    Raises:
        DamagedRow: the row cannot be decoded.
    """
    if row.extra is None and row.author is None:
        return {"role": row.role, "content": row.content or ""}
    try:
        return decode_without_attachments(StoredMessage(row.role, row.author, row.content, row.extra))
    except (ValueError, RecursionError) as error:
        problem = "its extra fields are not JSON" if isinstance(error, json.JSONDecodeError) else error
        raise damaged_row(conversation_id, f"message seq {row.seq} cannot be decoded ({problem})") from error


def find_known(connection: Connection, owner: str, keys: Sequence[DocumentKey]) -> set[DocumentKey]:
    """Return which of these texts are in the index."""
    return {_make_key(row) for row in _look_up(connection, owner, keys, _KNOWN, _ALL_KNOWN)}


def read_living_forks(connection: Connection, owner: str) -> list[Fork]:
    """Return the forks of an owner that are not deleted, latest activity first."""
    return [
        Fork(read_lineage(ConversationKey(owner, row.id), row.lineage), from_column(row.title), row.head_seq)
        for row in connection.execute(_LIVING_FORKS, {"owner": owner}).all()
    ]


def read_newest(connection: Connection, span: Span, most: int) -> Sequence[Row[Any]]:
    """Return the newest texts of a span, newest first."""
    return connection.execute(_NEWEST, {**span.bind(), "most": most}).all()  # type: ignore[no-any-return]


def read_texts(connection: Connection, owner: str, keys: Sequence[DocumentKey]) -> list[Row[Any]]:
    """Return these texts, in this order; those that are not stored any more are left out."""
    found = {_make_key(row): row for row in _look_up(connection, owner, keys, _THIS, _THESE)}
    return [found[key] for key in keys if key in found]


def _look_up(
    connection: Connection, owner: str, keys: Sequence[DocumentKey], one: Any, several: Any
) -> Iterator[Row[Any]]:
    """Yield the rows of documents, in any order.

    Args:
        one: the statement for one document: SQLite reads the whole table for a list of keys.
        several: the statement for a list of them, which saves round trips on PostgreSQL.
    """
    if is_sqlite(connection):
        for created_us, conversation_id, seq in keys:
            values = {"owner": owner, "created_us": created_us, "conversation_id": conversation_id, "seq": seq}
            yield from connection.execute(one, values)
        return
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = {"owner": owner, "keys": list(keys[start : start + _KEYS_AT_ONCE])}
        yield from connection.plain.execute(several, some)


def check_text(row: Any) -> None:
    """Check the types of a row of `_COLUMNS`; a title has no message, and some messages have no turn.

    Raises:
        DamagedRow: a value has another type than its column.
    """
    _check_always([row], row.conversation_id, "message seq")
    if row.role is not None:
        _check_message([row[len(_ALWAYS) :]], row.conversation_id, f"message seq {row.seq}")
    if row.status is not None:
        _check_turn([row[-len(_OF_TURN) :]], row.conversation_id, f"the turn of message seq {row.seq}")


def iterate_candidates(connection: Connection, span: Span, chosen: TermFilter) -> Iterator[list[DocumentKey]]:
    """Yield the texts of a span that a filter selects, newest first, some at a time.

    A few that it does not select may be among them.
    """
    kind = find_kind(connection)
    if kind is IndexKind.GIN:
        yield from _iterate_by_hashes(connection, span, chosen)
    else:
        yield from _iterate_by_terms(connection, span, _choose_source(span.owner, chosen, kind))


_FIRST_CANDIDATES, _MOST_CANDIDATES = 256, 4_096
"""How many candidates are read at first, and at most at a time: four times as many after each time."""
_FEW = 2_000
"""As many matches are sorted here; more are put in order by the database."""
_MOST_LATE = 1_000
_SCANNED = 20_000


@cache
def _hashes_statement(*, has_alternatives: bool, is_scan: bool, is_sorted: bool) -> Any:
    """Return the statement that finds documents of PostgreSQL by the hashes of terms.

    Args:
        is_scan: look only at the newest texts, without the index of terms.
        is_sorted: newest first; False: in any order.
    """
    array = ARRAY(Integer)
    source: Any = table
    if is_scan:
        newest = select(*_KEY, table.c.terms).where(*_IN_SPAN).order_by(*_NEWEST_FIRST)
        source = newest.limit(bindparam("scanned", type_=BigInteger)).subquery("newest")
    selected = [source.c.terms.bool_op("@>")(bindparam("all_terms", type_=array))]
    if has_alternatives:
        selected.append(source.c.terms.bool_op("&&")(bindparam("any_terms", type_=array)))
    key = (source.c.created_us, source.c.conversation_id, source.c.seq)
    if not is_scan:
        # Materialized, so that PostgreSQL uses the index of terms. It has no good statistics of them, and would read
        # all texts by time for a word that it takes for a common one.
        found = select(*_KEY).where(*_IN_SPAN, *selected).cte("found").prefix_with("MATERIALIZED")
        key, selected = (found.c.created_us, found.c.conversation_id, found.c.seq), []
    statement = select(*key).where(*selected).limit(bindparam("most", type_=BigInteger))
    return statement.order_by(*(column.desc() for column in key)) if is_sorted else statement


def _iterate_by_hashes(connection: Connection, span: Span, chosen: TermFilter) -> Iterator[list[DocumentKey]]:
    """Yield candidates of PostgreSQL.

    Its index of terms has no order. So the matches of a rare filter are read and sorted. Those of a common one are
    looked for among the newest texts before all of them are.
    """
    terms = {*chosen.terms, make_owner_term(span.owner)}
    terms.update(beginning for word in chosen.prefixes if (beginning := make_prefix_term(word)) is not None)
    values: dict[str, Any] = {"all_terms": sorted(map(hash_term, terms))}
    if chosen.alternatives:
        values["any_terms"] = sorted(map(hash_term, chosen.alternatives))

    def find(most: int, *, is_scan: bool = False, is_sorted: bool = True) -> list[DocumentKey]:
        statement = _hashes_statement(has_alternatives=bool(chosen.alternatives), is_scan=is_scan, is_sorted=is_sorted)
        given = {**span.bind(), **values, "most": most, **({"scanned": _SCANNED} if is_scan else {})}
        return list(map(_make_key, connection.execute(statement, given)))

    few = find(_FEW + 1, is_sorted=False)
    if len(few) <= _FEW:
        yield sorted(few, reverse=True)
        return
    newest = find(_FIRST_CANDIDATES, is_scan=True)
    yield newest
    span = replace(span, before=newest[-1]) if newest else span
    for most in _grow(_FIRST_CANDIDATES * 4):
        keys = find(most)
        yield keys
        if len(keys) < most:
            return
        span = replace(span, before=keys[-1])


def _grow(first: int) -> Iterator[int]:
    while True:
        yield first
        first = min(first * 4, _MOST_CANDIDATES)


# SQLite's own words, because SQLAlchemy knows no table of this kind. CROSS JOIN makes SQLite begin with the terms.
_SQLITE_KEYS = f"""
    SELECT d.docid, d.late, d.created_us, d.conversation_id, d.seq FROM {TERMS_TABLE} AS found
    CROSS JOIN {table.name} AS d ON d.docid = {{number}}
    WHERE {{number}} >= :low AND {{number}} < :high AND {{condition}} AND d.owner = :owner
      AND d.created_us >= :since_us AND (d.created_us, d.conversation_id, d.seq) < (:before_us, :before_id, :before_seq)
    ORDER BY {{order}} LIMIT :most
"""  # noqa: S608 (constants)
_BY_NUMBER, _BY_TIME = "{number} DESC", "d.created_us DESC, d.conversation_id DESC, d.seq DESC"
_LATE = (
    select(table.c.docid, *_KEY)
    .where(*_IN_SPAN, table.c.late.is_not(None), tuple_(*_KEY) > _AFTER)
    .order_by(*_NEWEST_FIRST)
    .limit(bindparam("most", type_=BigInteger))
)


@dataclass(frozen=True, slots=True)
class _Source:
    """The statements that find documents of SQLite by terms, and their parameters for these."""

    by_number: Any
    """By the documents' numbers, descending: days are in order, and in a day the texts that are not late."""
    by_time: Any
    terms: dict[str, Any]


@cache
def _fts_statement(*, by_time: bool) -> Any:
    return _write_select(f"found.{TERMS_TABLE} MATCH :match", "found.rowid", by_time=by_time)


@cache
def _plain_statement(terms: int, prefixes: int, alternatives: int, *, by_time: bool) -> Any:
    has = f"EXISTS (SELECT 1 FROM {TERMS_TABLE} AS t WHERE t.docid = found.docid AND"  # noqa: S608 (a constant)
    conditions = ["found.term = :term_0", *(f"{has} t.term = :term_{number})" for number in range(1, terms))]
    conditions += [f"{has} t.term >= :from_{number} AND t.term < :to_{number})" for number in range(prefixes)]
    if alternatives:
        names = ", ".join(f":any_{number}" for number in range(alternatives))
        conditions.append(f"{has} t.term IN ({names}))")
    return _write_select(" AND ".join(conditions), "found.docid", by_time=by_time)


def _write_select(condition: str, number: str, *, by_time: bool) -> Any:
    order = _BY_TIME if by_time else _BY_NUMBER.format(number=number)
    return text(_SQLITE_KEYS.format(condition=condition, number=number, order=order))


def _choose_source(owner: str, chosen: TermFilter, kind: IndexKind) -> _Source:
    if kind is IndexKind.FTS5:
        match = {"match": _write_match(owner, chosen)}
        return _Source(_fts_statement(by_time=False), _fts_statement(by_time=True), match)
    terms, prefixes, alternatives = (sorted(some) for some in (chosen.terms, chosen.prefixes, chosen.alternatives))
    terms.append(make_owner_term(owner))
    values = {f"term_{number}": term for number, term in enumerate(terms)}
    values |= {f"from_{number}": word for number, word in enumerate(prefixes)}
    values |= {f"to_{number}": f"{word}\U0010ffff" for number, word in enumerate(prefixes)}
    values |= {f"any_{number}": term for number, term in enumerate(alternatives)}
    shape = len(terms), len(prefixes), len(alternatives)
    return _Source(_plain_statement(*shape, by_time=False), _plain_statement(*shape, by_time=True), values)


def _write_match(owner: str, chosen: TermFilter) -> str:
    """Return a filter in FTS5's language (https://sqlite.org/fts5.html#full_text_query_syntax)."""
    parts = [f'"{term}"' for term in sorted(chosen.terms)]
    parts += [f'"{word}" *' for word in sorted(chosen.prefixes)]
    if chosen.alternatives:
        parts.append("(" + " OR ".join(f'"{term}"' for term in sorted(chosen.alternatives)) + ")")
    return " AND ".join([*parts, f'"{make_owner_term(owner)}"'])


def _iterate_by_terms(connection: Connection, span: Span, source: _Source) -> Iterator[list[DocumentKey]]:
    """Yield candidates of SQLite.

    Documents come by their numbers, and those that are not late are then newest first. Each time, the late ones between
    the newest and the oldest of these are added; a few more do no harm.
    """
    values = {**span.bind(), **source.terms, "low": find_first_docid(max(span.since_us, _FIRST_KEY[0]))}
    high = find_first_docid(span.before[0] + MICROSECONDS_PER_DAY)
    rest: list[DocumentKey] = []  # late ones, which come after others with smaller numbers
    for most in _grow(_FIRST_CANDIDATES):  # all before `span.before` are still to come
        rows = connection.execute(source.by_number, {**values, "high": high, "most": most}).all()
        found = {key for row in rows if (key := _make_key(row)) < span.before}.union(rest)
        if len(rows) < most:
            yield sorted(found, reverse=True)
            return
        high, last_day = rows[-1].docid, rows[-1].docid >> DAY_BITS
        edge = min((_make_key(row) for row in rows if row.late is None), default=None)
        late = _read_late(connection, span, edge, last_day) if edge is not None else None
        if edge is not None and late is not None:
            found.update(late)
        else:  # too many are late: this day is read in the order of time
            day = {"low": last_day << DAY_BITS, "high": (last_day + 1) << DAY_BITS, "most": NO_LIMIT}
            of_day = map(_make_key, connection.execute(source.by_time, {**values, **day}))
            found.update(key for key in of_day if key < span.before)
            edge, high = (last_day * MICROSECONDS_PER_DAY, "", Seq(0)), last_day << DAY_BITS
        yield sorted((key for key in found if key >= edge), reverse=True)
        rest = [key for key in found if key < edge]
        span = replace(span, before=edge)


def _read_late(connection: Connection, span: Span, edge: DocumentKey, day: int) -> list[DocumentKey] | None:
    """Return the late documents of a day after a key; None if they are very many."""
    end = min(span.before, ((day + 1) * MICROSECONDS_PER_DAY, "", Seq(0)))
    values = {**replace(span, before=end).bind(), "after_us": edge[0], "after_id": edge[1], "after_seq": edge[2]}
    rows = connection.execute(_LATE, {**values, "most": _MOST_LATE + 1}).all()
    return [_make_key(row) for row in rows] if len(rows) <= _MOST_LATE else None


def _make_key(row: Any) -> DocumentKey:
    return row.created_us, row.conversation_id, Seq(row.seq)
