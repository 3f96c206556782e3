"""Colour code line by line, while it arrives."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from convstore.cli.render.text_styles import RESET

# Colours of the terminal's own palette, which are readable on a light and on a dark background.
_COLOURS = {
    "Comment": "2",
    "Keyword": "35",
    "Literal.String": "32",
    "Literal.Number": "36",
    "Name.Function": "34",
    "Name.Class": "34",
    "Name.Decorator": "34",
    "Name.Tag": "34",
    "Generic.Deleted": "31",
    "Generic.Inserted": "32",
    "Generic.Heading": "1",
}


def make_colouring(language: str) -> Callable[[str], str]:
    """Return a function that colours one line of code after another.

    Args:
        language: the name of the language after the fence; an unknown one has no colours.
    """
    lexer = _find_lexer(language.lower()) if language else None
    return _Colouring(lexer).colour if lexer is not None else str


@cache
def _list_languages() -> dict[str, str]:
    from pygments.lexers import get_all_lexers

    return {alias: aliases[0] for _, aliases, _, _ in get_all_lexers(plugins=False) for alias in aliases}


@cache
def _find_lexer(language: str) -> Any:
    """Return the lexer of a language that can be stopped after each line, or None."""
    name = _list_languages().get(language)
    if name is None:
        return None
    from pygments.lexer import RegexLexer
    from pygments.lexers import get_lexer_by_name

    lexer = get_lexer_by_name(name)
    # Lexers with a method of their own look at the whole text.
    return lexer if type(lexer).get_tokens_unprocessed is RegexLexer.get_tokens_unprocessed else None


class _Colouring:
    """Colours lines with a lexer that goes on with each line where it stood at the end of the one before."""

    def __init__(self, lexer: Any) -> None:
        self._lexer = lexer
        self._stack: tuple[str, ...] = ("root",)

    def colour(self, line: str) -> str:
        """Return a line with its colours."""
        parts = []
        for colour, text in self._split(f"{line}\n"):
            parts.append(f"\x1b[{colour}m{text}{RESET}" if colour and text.strip() else text)
        return "".join(parts).rstrip("\n")

    def _split(self, line: str) -> list[tuple[str, str]]:
        """Return the pieces of a line, each with its colour; neighbours with the same colour are one."""
        pieces: list[tuple[str, str]] = []
        tokens = self._lexer.get_tokens_unprocessed(line, self._stack)
        stack: list[str] = list(self._stack)
        for _, kind, text in tokens:
            if text.endswith("\n") and tokens.gi_frame is not None:
                # pygments keeps the states of a lexer to itself; without them, each line would begin anew.
                stack = tokens.gi_frame.f_locals.get("statestack", stack)
            colour = _find_colour(kind)
            if pieces and (pieces[-1][0] == colour or not text.strip()):
                pieces[-1] = (pieces[-1][0], pieces[-1][1] + text)
            else:
                pieces.append((colour, text))
        self._stack = tuple(stack)
        return [(colour, text.rstrip("\n")) for colour, text in pieces]


@cache
def _find_colour(kind: Any) -> str:
    while kind:
        colour = _COLOURS.get(str(kind).removeprefix("Token."))
        if colour is not None:
            return colour
        kind = kind.parent
    return ""
