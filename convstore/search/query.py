"""Parse a search query, and decide whether a text matches it.

A query is pieces between spaces, and a text must contain all of them. `"a phrase"` is one piece, `-word` and
`-"a phrase"` must not stand in the text, and `migrat*` may be the beginning of a word. Everything else is literal:
`C++`, `don't`, `a"b`, `AND`, `->`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from convstore.errors import InvalidInput
from convstore.search.folded_text import fold
from convstore.search.terms import (
    LONGEST_TERM,
    drop_implied,
    find_last_word,
    find_terms,
    is_boundary,
    is_word_character,
)

LONGEST_QUERY = 1_000
"""The longest query, in characters."""

_PIECE = re.compile(r"""(?P<no>-(?=["\w]))?(?:"(?P<phrase>[^"]+)"(?=\s|$)|(?P<word>\S+))""")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a query."""

    text: str
    """Folded; it stands in a text at the boundaries of words."""
    is_excluded: bool = False
    is_prefix: bool = False
    """Whether the last word of the piece may go on."""

    def find(self, folded: str, start: int = 0) -> int:
        """Return the first place in a folded text where this piece stands; -1 if it does not."""
        begins_word, ends_word = is_word_character(self.text[0]), is_word_character(self.text[-1])
        place = folded.find(self.text, start)
        while place >= 0:
            end = place + len(self.text)
            if (not begins_word or is_boundary(folded, place)) and (
                not ends_word or self.is_prefix or is_boundary(folded, end)
            ):
                return place
            place = folded.find(self.text, place + 1)
        return -1


@dataclass(frozen=True)
class Query:
    """A parsed query."""

    pieces: tuple[Piece, ...]

    @cached_property
    def wanted(self) -> tuple[Piece, ...]:
        """The pieces that a text must contain."""
        return tuple(piece for piece in self.pieces if not piece.is_excluded)

    @cached_property
    def terms(self) -> frozenset[str]:
        """The terms that every matching text has."""
        found: set[str] = set()
        for piece in self.wanted:
            whole = piece.text
            if piece.is_prefix and (word := find_last_word(whole)):
                whole = whole[: len(whole) - len(word)]
            found |= find_terms(whole)
        return frozenset(drop_implied(found))

    @cached_property
    def prefixes(self) -> frozenset[str]:
        """Beginnings of words; a matching text has a term that begins with each."""
        words = {find_last_word(piece.text)[:LONGEST_TERM] for piece in self.wanted if piece.is_prefix}
        return frozenset(words - {""})

    def matches(self, folded: str) -> bool:
        """Return True if a folded text has all pieces that are wanted, and none that is excluded."""
        return all((piece.find(folded) >= 0) is not piece.is_excluded for piece in self.pieces)

    def matches_text(self, text: str) -> bool:
        """Return True if a text matches that is not folded yet."""
        if text.isascii():  # most texts do not match, and this finds it out in a fifth of the time
            lowered = text.lower()
            if not all(word in lowered for word in self._words):
                return False
        return self.matches(fold(text))

    @cached_property
    def _words(self) -> tuple[str, ...]:
        """The longest word of each piece that is wanted, between white space."""
        return tuple(max(piece.text.split(), key=len) for piece in self.wanted)

    def find_marks(self, folded: str) -> list[tuple[int, int]]:
        """Return where the wanted pieces stand in a folded text: first and last place, by place, not overlapping."""
        found: list[tuple[int, int]] = []
        for piece in self.wanted:
            place = piece.find(folded)
            while place >= 0 and len(found) < 1_000:
                found.append((place, place + len(piece.text)))
                place = piece.find(folded, place + len(piece.text))
        marks: list[tuple[int, int]] = []
        for begin, end in sorted(found):
            if marks and begin < marks[-1][1]:
                marks[-1] = (marks[-1][0], max(end, marks[-1][1]))
            else:
                marks.append((begin, end))
        return marks


def parse_query(query: str) -> Query:
    """Return what a query asks for.

    Raises:
        InvalidInput: the query is empty, too long, or no text.
    """
    if not isinstance(query, str):
        raise InvalidInput(f"a search query must be text, not {type(query).__name__}")
    if len(query) > LONGEST_QUERY:
        raise InvalidInput(f"the search query has {len(query):,} characters; at most {LONGEST_QUERY:,} are allowed")
    pieces = dict.fromkeys(piece for found in _PIECE.finditer(query) if (piece := _make_piece(found)) is not None)
    if not pieces:
        raise InvalidInput("the search query is empty: give a word, or a part of a text")
    return Query(tuple(pieces))


def _make_piece(found: re.Match[str]) -> Piece | None:
    is_excluded = found["no"] is not None
    if found["phrase"] is not None:
        text = fold(found["phrase"])
        return Piece(text, is_excluded) if text else None
    text = fold(found["word"])
    is_prefix = len(text) > 1 and text.endswith("*") and is_word_character(text[-2])
    if is_prefix:
        text = text[:-1]
    return Piece(text, is_excluded, is_prefix) if text else None
