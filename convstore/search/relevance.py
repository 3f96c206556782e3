"""Rank texts that match a query: by how often its pieces stand in them, and how short they are.

It is BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009) without the weight
of rare words: every text that matches has all pieces of the query, so that weight would be the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence

from convstore.search.folded_text import fold
from convstore.search.query import Query

_SATURATION, _LENGTH_SHARE = 1.2, 0.75
_MOST_COUNTED = 100  # of a piece in one text: more change nothing


def rank_texts(query: Query, texts: Sequence[str]) -> list[float]:
    """Return a number for each text that matches a query; a greater one is more relevant."""
    folded = [fold(text) for text in texts]
    mean = sum(map(len, folded)) / len(folded) if folded else 1.0
    return [_score(query, text, len(text) / mean if mean else 1.0) for text in folded]


def _score(query: Query, folded: str, length: float) -> float:
    """Return the number of a text.

    Args:
        length: the length of the text, divided by the mean length.
    """
    norm = _SATURATION * (1 - _LENGTH_SHARE + _LENGTH_SHARE * length)
    score = 0.0
    for piece in query.wanted:
        count, place = 0, piece.find(folded)
        while place >= 0 and count < _MOST_COUNTED:
            count += 1
            place = piece.find(folded, place + len(piece.text))
        score += count * (_SATURATION + 1) / (count + norm)
    return score
