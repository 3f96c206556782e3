"""Print a message below a heading."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.render.message_text import format_message
from convstore.cli.render.output_streams import has_colours, make_one_line, write_answer

if TYPE_CHECKING:
    from convstore.messages.message import Message


def print_message(position: str, message: Message, remark: str = "") -> None:
    """Print a message to stdout below its position, role, name and a remark."""
    name = message.get("name")
    heading = " ".join(part for part in (position, message["role"], str(name) if name else "", remark) if part)
    write_answer("")
    sys.stdout.write(style_output(make_one_line(heading), bold=True) + "\n")
    write_answer(format_message(message))


def style_output(text: str, **style: Any) -> str:
    """Return a text with a style of click, if stdout may have colours."""
    return click.style(text, **style) if has_colours(sys.stdout) else text
