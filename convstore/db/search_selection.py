"""What a search selects: a part of an owner's texts by time, and terms that a text must have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, tuple_
from sqlalchemy.types import BigInteger

from convstore.db.search_index import DocumentKey
from convstore.db.tables import search_documents as table
from convstore.values.identifiers import Seq

# The times that Python has are within these, and so are the numbers of documents made of them.
FIRST_KEY: DocumentKey = (-(2**56), "", Seq(0))
_LAST_KEY: DocumentKey = (2**58, "", Seq(0))
KEY_COLUMNS = (table.c.created_us, table.c.conversation_id, table.c.seq)
NEWEST_FIRST = tuple(column.desc() for column in KEY_COLUMNS)
_BEFORE = tuple_(
    bindparam("before_us", type_=BigInteger), bindparam("before_id"), bindparam("before_seq", type_=BigInteger)
)
# No `created_us <= …` before the comparison of rows: SQLite would begin there, and read all texts of the same time.
IN_SPAN = (
    table.c.owner == bindparam("owner"),
    table.c.created_us >= bindparam("since_us", type_=BigInteger),
    tuple_(*KEY_COLUMNS) < _BEFORE,
)

FIRST_CANDIDATES, _MOST_CANDIDATES = 256, 4_096
"""How many candidates are read at first, and at most at a time: four times as many after each time."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an owner's texts, by time."""

    owner: str
    since_us: int
    before: DocumentKey
    """The texts before this one are in it, not this one itself."""

    def bind(self) -> dict[str, Any]:
        """Return the parameters of `IN_SPAN`."""
        return {
            "owner": self.owner,
            "since_us": self.since_us,
            "before_us": self.before[0],
            "before_id": self.before[1],
            "before_seq": self.before[2],
        }


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
    return Span(owner, FIRST_KEY[0] if since_us is None else since_us, before or _LAST_KEY)


def make_key(row: Any) -> DocumentKey:
    """Return the key of a row with the key's columns."""
    return row.created_us, row.conversation_id, Seq(row.seq)


def grow_pages(first: int) -> Iterator[int]:
    """Yield how many candidates to read at a time: more and more."""
    while True:
        yield first
        first = min(first * 4, _MOST_CANDIDATES)
