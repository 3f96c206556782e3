"""Render the Markdown of a message as HTML that can do no harm, whatever a model wrote.

HTML in a text is shown, not obeyed. Links lead to `http`, `https` and `mailto` alone. Images are shown only if the
text itself holds them, as a raster image in a data URL; others become links, so that no page loads anything.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from convstore.transfer.writers.written_text import show_control_characters

MAX_RENDERED_CHARACTERS = 200_000
"""A longer text is shown as it is: it is data, and takes seconds to render."""

MAX_RENDERED_BRACKETS = 10_000
"""A text with more of them is shown as it is: finding their links takes the square of their number."""

_MAX_NESTING = 60  # of lists and quotations: markdown-it leaves out what is nested deeper
_LINK = re.compile(r"(https?|mailto):", re.IGNORECASE)
_RASTER_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
_ALIGNMENT = re.compile(r"text-align:(left|right|center)")


def render_markdown(text: str) -> str:
    """Return a text as HTML."""
    text = show_control_characters(text)
    if len(text) > MAX_RENDERED_CHARACTERS or text.count("[") > MAX_RENDERED_BRACKETS:
        return render_plain(text)
    parser = _make_parser()
    try:
        tokens = parser.parse(text)
        if any(token.level >= _MAX_NESTING - 2 for token in tokens):
            return render_plain(text)
        for token in tokens:
            _make_safe(token)
        return str(parser.renderer.render(tokens, parser.options, {}))
    except RecursionError:
        return render_plain(text)


def render_plain(text: str) -> str:
    """Return a text as HTML that shows it as it is."""
    return f'<pre class="text">{html.escape(show_control_characters(text))}</pre>\n'


def is_raster_image(url: str) -> bool:
    """Return True if a URL holds an image of a type that cannot hold a script."""
    return _RASTER_IMAGE.fullmatch(url) is not None


def is_link(url: str) -> bool:
    """Return True if a URL may be followed from a page."""
    return _LINK.match(url) is not None


class _Parser(MarkdownIt):
    def validateLink(self, url: str) -> bool:  # noqa: N802
        """Return True if a link or an image may have this URL; else its text is shown as it is."""
        return is_link(url) or is_raster_image(url)


@cache
def _make_parser() -> MarkdownIt:
    options = {"html": False, "xhtmlOut": False, "breaks": True, "maxNesting": _MAX_NESTING}
    parser = _Parser("commonmark", options).enable(["table", "strikethrough"])
    parser.add_render_rule("image", _render_image)
    return parser


def _make_safe(token: Token) -> None:
    """Change the attributes that the page's policy or a stranger's link would spoil."""
    if token.type in ("th_open", "td_open") and (found := _ALIGNMENT.match(str(token.attrs.pop("style", "")))):
        token.attrs["class"] = found[1]
    if token.type == "link_open":
        if is_link(str(token.attrs.get("href", ""))):
            token.attrs["rel"] = "noopener noreferrer nofollow"
        else:
            token.attrs.pop("href", None)  # a link to a data URL, which is allowed for images
    for child in token.children or ():
        _make_safe(child)


def _render_image(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    token = tokens[at]
    url = str(token.attrs.get("src", ""))
    label = html.escape(renderer.renderInlineAsText(token.children or [], options, env))
    if is_raster_image(url):
        return f'<img src="{url}" alt="{label}">'
    return f'<a href="{html.escape(url)}" rel="noopener noreferrer nofollow">[image: {label or html.escape(url)}]</a>'
