"""Find texts by their terms, on SQLite: with FTS5, or with a plain table of terms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from sqlalchemy import text

from convstore.db.connection import Connection
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
    Span,
    TermFilter,
    grow_pages,
    make_key,
)
from convstore.db.tables import search_documents as table
from convstore.values.identifiers import Seq

# SQLite's own words, because SQLAlchemy knows no table of this kind. CROSS JOIN makes SQLite begin with the terms.
_SQLITE_KEYS = f"""
    SELECT d.docid, d.late, d.created_us, d.conversation_id, d.seq FROM {TERMS_TABLE} AS found
    CROSS JOIN {table.name} AS d ON d.docid = {{number}}
    WHERE {{number}} >= :low AND {{number}} < :high AND {{condition}} AND d.owner = :owner
      AND d.created_us >= :since_us AND (d.created_us, d.conversation_id, d.seq) < (:before_us, :before_id, :before_seq)
    ORDER BY {{number}} DESC LIMIT :most
"""  # noqa: S608 (constants)


@cache
def _fts_statement() -> Any:
    return text(_SQLITE_KEYS.format(condition=f"found.{TERMS_TABLE} MATCH :match", number="found.rowid"))


@cache
def _plain_statement(terms: int, prefixes: int, alternatives: int) -> Any:
    has = f"EXISTS (SELECT 1 FROM {TERMS_TABLE} AS t WHERE t.docid = found.docid AND"  # noqa: S608 (a constant)
    conditions = ["found.term = :term_0", *(f"{has} t.term = :term_{number})" for number in range(1, terms))]
    conditions += [f"{has} t.term >= :from_{number} AND t.term < :to_{number})" for number in range(prefixes)]
    if alternatives:
        names = ", ".join(f":any_{number}" for number in range(alternatives))
        conditions.append(f"{has} t.term IN ({names}))")
    return text(_SQLITE_KEYS.format(condition=" AND ".join(conditions), number="found.docid"))


def _choose_select(owner: str, chosen: TermFilter, kind: IndexKind) -> tuple[Any, dict[str, Any]]:
    """Return the statement that finds the documents of a filter, and its parameters for the terms."""
    if kind is IndexKind.FTS5:
        return _fts_statement(), {"match": _write_match(owner, chosen)}
    terms, prefixes, alternatives = (sorted(some) for some in (chosen.terms, chosen.prefixes, chosen.alternatives))
    terms.append(make_owner_term(owner))
    values = {f"term_{number}": term for number, term in enumerate(terms)}
    values |= {f"from_{number}": word for number, word in enumerate(prefixes)}
    values |= {f"to_{number}": f"{word}\U0010ffff" for number, word in enumerate(prefixes)}
    values |= {f"any_{number}": term for number, term in enumerate(alternatives)}
    return _plain_statement(len(terms), len(prefixes), len(alternatives)), values


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

    Documents come by their numbers, the greatest first. So all of later days have come. In the day that was reached,
    all that are after a text that is not late have come too: when it was stored, it was the last one of its day, so
    those with smaller numbers are before it. Late ones that come too early wait in `rest`.
    """
    statement, terms = _choose_select(span.owner, chosen, kind)
    values = {**span.bind(), **terms, "low": find_first_docid(max(span.since_us, FIRST_KEY[0]))}
    high = find_first_docid(span.before[0] + MICROSECONDS_PER_DAY)
    rest: list[DocumentKey] = []
    for most in grow_pages(FIRST_CANDIDATES):
        rows = connection.execute(statement, {**values, "high": high, "most": most}).all()
        found = [*rest, *map(make_key, rows)]
        if len(rows) < most:
            yield sorted(found, reverse=True)
            return
        high = rows[-1].docid
        end_of_day: DocumentKey = ((high >> DAY_BITS) + 1) * MICROSECONDS_PER_DAY, "", Seq(0)
        edge = min([end_of_day, *(make_key(row) for row in rows if row.late is None)])
        yield sorted((key for key in found if key >= edge), reverse=True)
        rest = [key for key in found if key < edge]
