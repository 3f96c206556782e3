"""The styles of rendered text: how each is written to a terminal."""

from __future__ import annotations

from enum import IntFlag
from functools import cache


class TextStyle(IntFlag):
    """How a piece of text looks; several may be combined."""

    PLAIN = 0
    BOLD = 1
    DIM = 2
    ITALIC = 4
    UNDERLINE = 8
    STRUCK = 16
    CODE = 32
    LINK = 64


_CODES = {
    TextStyle.BOLD: "1",
    TextStyle.DIM: "2",
    TextStyle.ITALIC: "3",
    TextStyle.UNDERLINE: "4",
    TextStyle.STRUCK: "9",
}
_COLOURS = {TextStyle.CODE: "36", TextStyle.LINK: "34"}
RESET = "\x1b[0m"


@cache
def begin_style(style: TextStyle, *, has_colours: bool) -> str:
    """Return the control sequence (SGR) with which a style begins, or "".

    Without colours (https://no-color.org), bold and the like stay.
    """
    codes = _CODES | _COLOURS if has_colours else _CODES
    found = ";".join(code for flag, code in codes.items() if flag & style)
    return f"\x1b[{found}m" if found else ""


def add_style(text: str, style: TextStyle, *, has_colours: bool) -> str:
    """Return a text between the control sequences of a style."""
    begin = begin_style(style, has_colours=has_colours)
    return f"{begin}{text}{RESET}" if begin and text else text
