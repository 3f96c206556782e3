"""Print a message below a heading."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.render.message_text import format_message
from convstore.cli.render.output_streams import has_colours, make_one_line, write_answer
from convstore.cli.render.text_output import write_text

if TYPE_CHECKING:
    from convstore.messages.message import Message


def print_message(position: str, message: Message, remark: str = "", *, is_plain: bool = False) -> None:
    """Print a message to stdout below its position, role, name and a remark.

    On a terminal, what the model wrote is rendered as Markdown.
    """
    name = message.get("name")
    heading = " ".join(part for part in (position, message["role"], str(name) if name else "", remark) if part)
    write_answer("")
    sys.stdout.write(style_output(make_one_line(heading), bold=True) + "\n")
    # What a person wrote is shown as it was typed.
    write_text(format_message(message), is_plain=is_plain or message["role"] != "assistant")


def style_output(text: str, **style: Any) -> str:
    """Return a text with a style of click, if stdout may have colours."""
    return click.style(text, **style) if has_colours(sys.stdout) else text
