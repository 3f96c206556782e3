"""Cut the passage of a text that matches a query."""

from __future__ import annotations

from dataclasses import dataclass

from convstore.search.folded_text import SEPARATOR, find_source, fold
from convstore.search.query import Query

_AROUND = 70  # characters before and after the first match


@dataclass(frozen=True, slots=True)
class Snippet:
    """A passage of a text, on one line."""

    text: str
    marks: tuple[tuple[int, int], ...]
    """Where the query's pieces stand in it: first place, and the place after the last."""


def cut_snippet(text: str, query: Query) -> Snippet:
    """Return the passage around the first match in a text."""
    marks = query.find_marks(fold(text))
    begin, end = marks[0] if marks else (0, 1)
    part, places, first = find_source(text, begin, min(end, begin + _AROUND), _AROUND)
    characters: list[str] = []
    marked: list[bool] = []
    if first > 0:
        characters.append("…")
        marked.append(False)
    for character, place in zip(part, places, strict=True):
        is_marked = any(start <= place < stop for start, stop in marks[:20])
        if character.isspace() or character == SEPARATOR:
            if characters and characters[-1] not in " …":
                characters.append(" ")
                marked.append(is_marked)
            continue
        characters.append(character)
        marked.append(is_marked)
    while characters and characters[-1] == " ":
        characters.pop(), marked.pop()
    if first + len(part) < len(text.rstrip()):
        characters.append("…")
        marked.append(False)
    return Snippet("".join(characters), tuple(_find_runs(marked)))


def _find_runs(marked: list[bool]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for place, is_marked in enumerate(marked):
        if is_marked and runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        elif is_marked:
            runs.append((place, place + 1))
    return runs
