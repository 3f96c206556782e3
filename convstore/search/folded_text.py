"""Fold text, so that texts that look alike compare as equal: case, width, accents, spaces.

The parts of it are Unicode's: compatibility forms (NFKD), case folding, and marks taken off letters
(https://www.unicode.org/reports/tr15/, https://www.unicode.org/reports/tr30/tr30-4.html).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

SEPARATOR = "\uffff"
"""Stands between texts that a phrase must not span. Unicode gives this character no meaning."""

_ACCENTS = (range(0x300, 0x370), range(0x591, 0x5BE), range(0x5BF, 0x5C0), range(0x5C1, 0x5C3), range(0x5C4, 0x5C6),
            range(0x5C7, 0x5C8), range(0x610, 0x61B), range(0x64B, 0x660), range(0x670, 0x671))  # fmt: skip
# Accents of Latin, Greek and Cyrillic letters, and the points of Hebrew and Arabic. Other marks are vowels or change a
# letter into another one (か, が). Soft hyphens, marks of no width and variation selectors cannot be seen.
_FOLDED: dict[int, str | None] = {code: None for codes in _ACCENTS for code in codes}
_FOLDED |= dict.fromkeys((0xAD, 0x200B, 0x2060, 0xFEFF, *range(0xFE00, 0xFE10)))
_FOLDED |= dict.fromkeys(map(ord, "\u2018\u2019\u201b\u02bc"), "'") | dict.fromkeys(map(ord, "\u201c\u201d\u201f"), '"')
_FOLDED |= dict.fromkeys(map(ord, "\u2010\u2011"), "-")

_CHUNK = 4_000


def fold(text: str) -> str:
    """Return the text with case, width and accents folded, and one space for each run of white space."""
    return " ".join((text.lower() if text.isascii() else _fold_letters(text)).split())


def _fold_letters(text: str) -> str:
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFC", folded.translate(_FOLDED))


def find_source(text: str, begin: int, end: int, around: int) -> tuple[str, list[int], int]:
    """Return the part of a text that some of its folded form comes from, with what is around it.

    Args:
        text: the text before it was folded.
        begin: where the part begins in `fold(text)`.
        end: where it ends there.
        around: how many characters of the text to return before and after.

    Returns:
        The part of the text; for each of its characters its place in `fold(text)`; and where the part begins in `text`.
    """
    source: list[tuple[int, int]] = []  # each character's place in the text, and in its folded form
    folded_length = 0
    for start, chunk in _split(text):
        length = len(fold(chunk)) + (1 if chunk[-1:].isspace() and start + len(chunk) < len(text) else 0)
        if folded_length + length + around >= begin:
            source.extend(_place_characters(chunk, start, folded_length, is_first=folded_length == 0))
        folded_length += length
        if folded_length > end + around:
            break
    inside = [number for number, (_, place) in enumerate(source) if begin <= place < end]
    if not inside:
        return text[: 2 * around], [-1] * len(text[: 2 * around]), 0
    taken = source[max(0, inside[0] - around) : inside[-1] + 1 + around]
    first = taken[0][0]
    return text[first : taken[-1][0] + 1], [place for _, place in taken], first


def _split(text: str) -> Iterator[tuple[int, str]]:
    """Split a text into pieces that can be folded one after the other, with the same result."""
    start = 0
    while start < len(text):
        stop = start + _CHUNK
        while stop < len(text) and (not fold(text[stop]) or _joins_letter_before(text[stop])):
            stop += 1
        yield start, text[start:stop]
        start = stop


def _joins_letter_before(character: str) -> bool:
    """Return True for marks, and for the vowels and final consonants of Korean syllables."""
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"


def _place_characters(chunk: str, start: int, place: int, *, is_first: bool) -> Iterator[tuple[int, int]]:
    """Yield for each character of a chunk its place in the text, and the place of its folded form."""
    is_space = is_first  # the white space before the first word is dropped
    number = 0
    while number < len(chunk):
        stop = number + 1
        while stop < len(chunk) and _joins_letter_before(chunk[stop]):
            stop += 1
        folded = _fold_letters(chunk[number:stop])
        at = place - 1 if is_space and folded.isspace() else place  # with the white space before it
        yield from ((start + one, at) for one in range(number, stop))
        for character in folded:
            place += 0 if is_space and character.isspace() else 1
            is_space = character.isspace()
        number = stop
