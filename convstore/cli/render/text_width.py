"""Measure, cut, pad and wrap text by the columns that it takes on a terminal."""

from __future__ import annotations

from unicodedata import combining, east_asian_width


def count_columns(text: str) -> int:
    """Return how many columns a text without control characters takes."""
    if text.isascii():
        return len(text)
    return sum(map(_count_character, text))


def _count_character(character: str) -> int:
    if combining(character):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def cut_line(text: str, width: int, *, end: str = "…") -> str:
    """Cut a line to at most `width` columns of a terminal, and return it.

    A line that was cut ends with `end`.
    """
    columns = 0
    fitting = 0
    for place, character in enumerate(text):
        columns += _count_character(character)
        if columns <= width - len(end):
            fitting = place + 1
        if columns > width:
            return text[:fitting].rstrip() + end
    return text


def pad_line(text: str, width: int) -> str:
    """Return a line with spaces after it, so that it takes at least `width` columns."""
    return text + " " * (width - count_columns(text))


def wrap_line(text: str, width: int) -> list[str]:
    """Return a line as lines of at most `width` columns, broken at spaces where possible."""
    lines = [""]
    for word in text.split():
        rest = word
        while rest:
            line = f"{lines[-1]} {rest}" if lines[-1] else rest
            if count_columns(line) <= width:
                lines[-1], rest = line, ""
            elif lines[-1]:
                lines.append("")
            else:  # the word alone is too long
                piece = cut_line(rest, width, end="") or rest[0]
                lines[-1], rest = piece, rest[len(piece) :]
                lines.append("")
    return [line for line in lines if line]
