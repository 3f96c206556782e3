"""Split folded text into terms, the words that an index of texts is made of.

A word is a run of letters, digits and marks of one script. Chinese, Japanese, Thai and their like have no spaces
between words; there, each character is a term, and each two neighbours are one. So a text that contains a piece of a
query has all terms of this piece: terms select the texts to look at, and `matching` decides.
"""

from __future__ import annotations

import re
import unicodedata
from operator import add

LONGEST_TERM = 64
"""Only the first letters of a longer word are its term."""

_OTHER, _DENSE, _NEUTRAL = " ", "D", "n"
# The first words of their letters' names. "TAI" and "NEW" are Tai Tham, Tai Le and New Tai Lue.
_DENSE_SCRIPTS = {
    *("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HENTAIGANA", "HALFWIDTH", "IDEOGRAPHIC", "BOPOMOFO"),
    *("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "YI", "TANGUT", "NUSHU", "TAI", "NEW"),
}
_ASCII_WORD = re.compile("[a-z0-9]+")
_RUN = re.compile(f"{_DENSE}+|[^{_OTHER}{_DENSE}]+")


class _Classes(dict[int, str]):
    """The class of each character by its code: one letter, so that `str.translate` can use it."""

    def __init__(self) -> None:
        self._scripts: dict[str, str] = {}

    def __missing__(self, code: int) -> str:
        found = self[code] = self._classify(chr(code))
        return found

    def _classify(self, character: str) -> str:
        kind = unicodedata.category(character)[0]
        if kind not in "LNM":
            return _OTHER
        script = unicodedata.name(character, "").partition(" ")[0]
        if script in _DENSE_SCRIPTS:
            return _DENSE
        if kind != "L":
            return _NEUTRAL  # digits and marks go with letters of any script
        return self._scripts.setdefault(script, chr(0xE000 + len(self._scripts)))


_CLASSES = _Classes()


def is_word_character(character: str) -> bool:
    """Return True for letters, digits and marks."""
    return _CLASSES[ord(character)] != _OTHER


def is_boundary(text: str, place: int) -> bool:
    """Return True if a word may begin or end at a place of a folded text.

    A change of script is such a place, and in Chinese, Japanese and Thai every place is.
    """
    if place <= 0 or place >= len(text):
        return True
    before, after = _CLASSES[ord(text[place - 1])], _CLASSES[ord(text[place])]
    if before in (_OTHER, _DENSE) or after in (_OTHER, _DENSE):
        return True
    return before != after and _NEUTRAL not in (before, after)


def find_terms(folded: str) -> set[str]:
    """Return the terms of a folded text."""
    if folded.isascii():
        return {word[:LONGEST_TERM] for word in _ASCII_WORD.findall(folded)}
    terms: set[str] = set()
    classes = folded.translate(_CLASSES)
    for run in _RUN.finditer(classes):
        begin, end = run.span()
        piece = folded[begin:end]
        if classes[begin] == _DENSE:
            terms.update(piece)
            terms.update(map(add, piece, piece[1:]))
        else:
            terms.update(word[:LONGEST_TERM] for word in _split_scripts(piece, classes[begin:end]))
    return terms


def drop_implied(terms: set[str]) -> set[str]:
    """Return the terms without the characters that a pair of characters among them has."""
    paired = {character for term in terms if len(term) > 1 and _CLASSES[ord(term[0])] == _DENSE for character in term}
    return terms - paired


def find_last_word(folded: str) -> str:
    """Return the word that a folded text ends with; "" if it ends with a sign or a character that is a term itself."""
    classes = folded.translate(_CLASSES)
    if classes[-1:] in ("", _OTHER, _DENSE):
        return ""
    run = list(_RUN.finditer(classes))[-1]
    return _split_scripts(folded[run.start() :], classes[run.start() :])[-1]


def _split_scripts(piece: str, classes: str) -> list[str]:
    if len(set(classes) - {_NEUTRAL}) <= 1:
        return [piece]
    words, begin = [], 0
    for place in range(1, len(piece)):
        if classes[place] != classes[place - 1] and _NEUTRAL not in classes[place - 1 : place + 1]:
            words.append(piece[begin:place])
            begin = place
    return [*words, piece[begin:]]
