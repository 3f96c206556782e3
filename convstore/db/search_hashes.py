"""Find texts by the hashes of their terms, on PostgreSQL.

Its index of terms has no order, and finds all matches before it returns the first: of a word that half of a million
texts have, that takes a tenth of a second. So the newest texts are looked through first, which finds a page of a common
word in milliseconds. Then the matches of a rare filter are read and sorted; those of a common one are looked for among
more of the newest texts before all of them are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.types import ARRAY, BigInteger, Integer

from convstore.db.connection import Connection
from convstore.db.search_index import DocumentKey, hash_term, make_owner_term, make_prefix_term
from convstore.db.search_selection import (
    FIRST_CANDIDATES,
    IN_SPAN,
    KEY_COLUMNS,
    NEWEST_FIRST,
    Span,
    TermFilter,
    grow_pages,
    make_key,
)
from convstore.db.tables import search_documents as table

_FEW = 2_000
"""As many matches are sorted here; more are put in order by the database."""
_SCANNED_FIRST, _SCANNED = 1_000, 20_000
"""So many of the newest texts are looked through, without the index of terms: at first, and for a common filter."""


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
        newest = select(*KEY_COLUMNS, table.c.terms).where(*IN_SPAN).order_by(*NEWEST_FIRST)
        source = newest.limit(bindparam("scanned", type_=BigInteger)).subquery("newest")
    selected = [source.c.terms.bool_op("@>")(bindparam("all_terms", type_=array))]
    if has_alternatives:
        selected.append(source.c.terms.bool_op("&&")(bindparam("any_terms", type_=array)))
    key = (source.c.created_us, source.c.conversation_id, source.c.seq)
    if not is_scan:
        # Materialized, so that PostgreSQL uses the index of terms. It has no good statistics of them, and would read
        # all texts by time for a word that it takes for a common one.
        found = select(*KEY_COLUMNS).where(*IN_SPAN, *selected).cte("found").prefix_with("MATERIALIZED")
        key, selected = (found.c.created_us, found.c.conversation_id, found.c.seq), []
    statement = select(*key).where(*selected).limit(bindparam("most", type_=BigInteger))
    return statement.order_by(*(column.desc() for column in key)) if is_sorted else statement


def iterate_by_hashes(connection: Connection, span: Span, chosen: TermFilter) -> Iterator[list[DocumentKey]]:
    """Yield the texts that a filter selects, newest first, some at a time."""
    terms = {*chosen.terms, make_owner_term(span.owner)}
    terms.update(beginning for word in chosen.prefixes if (beginning := make_prefix_term(word)) is not None)
    values: dict[str, Any] = {"all_terms": sorted(map(hash_term, terms))}
    if chosen.alternatives:
        values["any_terms"] = sorted(map(hash_term, chosen.alternatives))

    def find(span: Span, most: int, *, scanned: int | None = None, is_sorted: bool = True) -> list[DocumentKey]:
        is_scan = scanned is not None
        statement = _hashes_statement(has_alternatives=bool(chosen.alternatives), is_scan=is_scan, is_sorted=is_sorted)
        given = {**span.bind(), **values, "most": most, **({"scanned": scanned} if is_scan else {})}
        return list(map(make_key, connection.execute(statement, given)))

    newest = find(span, FIRST_CANDIDATES, scanned=_SCANNED_FIRST)
    yield newest
    span = _end_before(span, newest)
    few = find(span, _FEW + 1, is_sorted=False)
    if len(few) <= _FEW:
        yield sorted(few, reverse=True)
        return
    newest = find(span, FIRST_CANDIDATES, scanned=_SCANNED)
    yield newest
    span = _end_before(span, newest)
    for most in grow_pages(FIRST_CANDIDATES * 4):
        keys = find(span, most)
        yield keys
        if len(keys) < most:
            return
        span = _end_before(span, keys)


def _end_before(span: Span, keys: list[DocumentKey]) -> Span:
    """Return the part of a span before the last of these texts; all of it, if there are none."""
    return replace(span, before=keys[-1]) if keys else span
