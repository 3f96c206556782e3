"""Find texts by their terms, on SQLite: with FTS5, or with a plain table of terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from sqlalchemy import bindparam, select, text, tuple_
from sqlalchemy.types import BigInteger

from convstore.db.connection import Connection
from convstore.db.dialect import NO_LIMIT
from convstore.db.search_index import (
    DAY_BITS,
    MICROSECONDS_PER_DAY,
    TERMS_TABLE,
    DocumentKey,
    IndexKind,
    find_first_docid,
    make_owner_term,
)
from convstore.db.search_selection import (
    FIRST_CANDIDATES,
    FIRST_KEY,
    IN_SPAN,
    KEY_COLUMNS,
    NEWEST_FIRST,
    Span,
    TermFilter,
    grow_pages,
    make_key,
)
from convstore.db.tables import search_documents as table
from convstore.values.identifiers import Seq

_MOST_LATE = 1_000
"""If more texts of a day are late, the day is read in the order of time."""

_AFTER = tuple_(
    bindparam("after_us", type_=BigInteger), bindparam("after_id"), bindparam("after_seq", type_=BigInteger)
)
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
    select(table.c.docid, *KEY_COLUMNS)
    .where(*IN_SPAN, table.c.late.is_not(None), tuple_(*KEY_COLUMNS) > _AFTER)
    .order_by(*NEWEST_FIRST)
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


def iterate_by_terms(
    connection: Connection, span: Span, chosen: TermFilter, kind: IndexKind
) -> Iterator[list[DocumentKey]]:
    """Yield the texts that a filter selects, newest first, some at a time.

    Documents come by their numbers, and those that are not late are then newest first. Each time, the late ones between
    the newest and the oldest of these are added; a few more do no harm.
    """
    source = _choose_source(span.owner, chosen, kind)
    values = {**span.bind(), **source.terms, "low": find_first_docid(max(span.since_us, FIRST_KEY[0]))}
    high = find_first_docid(span.before[0] + MICROSECONDS_PER_DAY)
    rest: list[DocumentKey] = []  # late ones, which come after others with smaller numbers
    for most in grow_pages(FIRST_CANDIDATES):  # all before `span.before` are still to come
        rows = connection.execute(source.by_number, {**values, "high": high, "most": most}).all()
        found = {key for row in rows if (key := make_key(row)) < span.before}.union(rest)
        if len(rows) < most:
            yield sorted(found, reverse=True)
            return
        high, last_day = rows[-1].docid, rows[-1].docid >> DAY_BITS
        edge = min((make_key(row) for row in rows if row.late is None), default=None)
        late = _read_late(connection, span, edge, last_day) if edge is not None else None
        if edge is not None and late is not None:
            found.update(late)
        else:  # too many are late: this day is read in the order of time
            day = {"low": last_day << DAY_BITS, "high": (last_day + 1) << DAY_BITS, "most": NO_LIMIT}
            of_day = map(make_key, connection.execute(source.by_time, {**values, **day}))
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
    return [make_key(row) for row in rows] if len(rows) <= _MOST_LATE else None
