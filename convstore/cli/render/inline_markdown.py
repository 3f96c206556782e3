"""Markdown within a line: where a text may be cut while it still grows, and its spans with their styles."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from convstore.cli.render.text_styles import TextStyle

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

Span = tuple[str, TextStyle]

MARKS = re.compile(r"[*_`\[\\<&~]")
"""Characters that may begin markup."""
WIDE_LETTERS = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
"""Letters of Chinese, Japanese and Korean: a line may be broken after each."""
CLOSING_MARKS = "、。，！？：；）」』】"
"""They stay in the line of the letter before them."""
_WIDE = re.compile(f"[{WIDE_LETTERS}]")
_ENTITY = re.compile(r"&#?\w{1,31}(;?)")
_MAX_TAG_CHARACTERS = 200
_TEX = re.compile(r"\\([()\[\]])")
"""TeX's delimiters, which Markdown would take for escaped brackets."""


def find_cut(text: str) -> int:
    """Return how much of a growing text is final: all markup in it is closed, and it ends between two words."""
    place, length, cut = 0, len(text), 0
    while place < length:
        found = MARKS.search(text, place)
        end = found.start() if found is not None else length
        cut = _find_last_break(text, place, end) or cut
        if found is None:
            return cut
        after = _skip_markup(text, end)
        if after is None:  # it may still go on
            return cut
        place = after
    return cut


def _find_last_break(text: str, begin: int, end: int) -> int:
    """Return the last place where a line may be broken whatever comes next, or 0."""
    if text.isascii():
        return max(text.rfind(" ", begin, end), text.rfind("\n", begin, end)) + 1
    for place in range(end, begin, -1):
        if text[place - 1].isspace():
            return place
        if _WIDE.match(text, place - 1) and place < len(text) and text[place] not in CLOSING_MARKS:
            return place
    return 0


def _skip_markup(text: str, place: int) -> int | None:
    """Return where the markup at a place ends; None if it may still go on. What is no markup ends with its mark."""
    character = text[place]
    if character == "\\":
        return place + 2 if place + 1 < len(text) else None
    if character == "`":
        return _skip_code(text, place)
    if character == "[":
        return _skip_link(text, place)
    if character == "<":
        return _skip_tag(text, place)
    if character == "&":
        entity = _ENTITY.match(text, place)
        if entity is None:
            return place + 1 if place + 1 < len(text) else None
        return None if entity.end() == len(text) and not entity[1] else entity.end()
    return _skip_emphasis(text, place)


def _count_run(text: str, place: int) -> int:
    """Return how often the character at a place is repeated."""
    return len(text) - place - len(text[place:].lstrip(text[place]))


def _skip_code(text: str, place: int) -> int | None:
    marks = _count_run(text, place)
    start = place + marks
    while (found := text.find("`", start)) >= 0:
        run = _count_run(text, found)
        if run == marks:
            return found + run if found + run < len(text) else None  # it may become longer
        start = found + run
    return None


def _skip_link(text: str, place: int) -> int | None:
    end = text.find("]", place)
    if end < 0 or end + 1 >= len(text):
        return None
    if text[end + 1] not in "([":
        return place + 1  # a bracket; what is in it may have markup
    close = text.find(")" if text[end + 1] == "(" else "]", end + 2)
    return close + 1 if close >= 0 else None


def _skip_tag(text: str, place: int) -> int | None:
    end = text.find(">", place)
    if end >= 0 and end - place < _MAX_TAG_CHARACTERS:
        return end + 1
    may_become = text[place + 1 : place + 2].isalpha() or place + 1 == len(text)
    return None if may_become and end < 0 and len(text) - place < _MAX_TAG_CHARACTERS else place + 1


def _skip_emphasis(text: str, place: int) -> int | None:
    mark, marks = text[place], _count_run(text, place)
    start = place + marks
    if start >= len(text):
        return None
    if not _opens(text, place, start):
        return start
    close = start
    while (close := text.find(mark, close)) >= 0:
        run = _count_run(text, close)
        if not text[close - 1].isspace() and (run == marks or run >= 3):
            return close + run if close + run < len(text) else None
        close += run
    return None


def _opens(text: str, place: int, start: int) -> bool:
    """Return True if emphasis may begin with the marks from `place` to `start`."""
    is_in_word = place > 0 and text[place - 1].isalnum() and text[place] == "_"
    is_single_tilde = text[place] == "~" and start - place != 2
    return not (text[start].isspace() or is_in_word or is_single_tilde)


@cache
def _get_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("strikethrough").disable("html_inline")


def parse_spans(text: str, *, has_colours: bool = True) -> list[Span]:
    """Return the spans of a text that was cut by `find_cut`; line breaks stay.

    Args:
        has_colours: without them, code keeps its backquotes, because nothing else shows it.
    """
    if MARKS.search(text) is None:
        return [(text, TextStyle.PLAIN)]
    [token] = _get_parser().parseInline(_TEX.sub(r"\\\\\1", text))
    # The parser strips spaces at both ends; two spans need them between.
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :] if text.strip() else ""
    spans = _style_tokens(token.children or [], has_colours=has_colours)
    return [(before, TextStyle.PLAIN), *spans, (after, TextStyle.PLAIN)]


_STYLES = {
    "strong_open": TextStyle.BOLD,
    "em_open": TextStyle.ITALIC,
    "s_open": TextStyle.STRUCK,
    "link_open": TextStyle.UNDERLINE,
}


def _style_tokens(tokens: list[Token], *, has_colours: bool) -> list[Span]:
    style = TextStyle.PLAIN
    spans: list[Span] = []
    links: list[tuple[str, int]] = []
    for token in tokens:
        if token.type in _STYLES:
            style |= _STYLES[token.type]
            if token.type == "link_open":
                links.append((str(token.attrs.get("href", "")), len(spans)))
        elif token.type.endswith("_close"):
            style &= ~_STYLES.get(f"{token.type.removesuffix('_close')}_open", TextStyle.PLAIN)
            if token.type == "link_close":
                spans += _show_address(*links.pop(), spans)
        elif token.type == "code_inline":
            code = token.content if has_colours else f"{token.markup}{token.content}{token.markup}"
            spans.append((code, style | TextStyle.CODE))
        elif token.type in ("softbreak", "hardbreak"):
            spans.append(("\n", style))
        elif token.type == "image":
            spans += [(token.content, style), (f" ({token.attrs.get('src', '')})", TextStyle.DIM)]
        else:
            spans.append((token.content, style))
    return spans


def _show_address(address: str, first: int, spans: list[Span]) -> list[Span]:
    """Return the address of a link in brackets, if its text is another one: a model's link is never hidden."""
    text = "".join(span[0] for span in spans[first:])
    if address.removeprefix("mailto:") == text:
        return []
    return [(f" ({address})", TextStyle.DIM | TextStyle.LINK)]
