"""Messages in words: as a person reads them, and cut to a line."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import combining, east_asian_width

from convstore.cli.render import attachments, output

if TYPE_CHECKING:
    from convstore.messages.codec import Message


def readable(message: Message) -> str:
    """Return a message as a person reads it: its text, and what else it holds, named in brackets."""
    lines = []
    content = message.get("content")
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            lines.append(part["text"])
        elif isinstance(part, dict) and part.get("type") != "text":
            lines.extend(attachments.labels(part))
    if isinstance(message.get("refusal"), str):
        lines.append(message["refusal"])
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            lines.append(f"[calls {function.get('name')}({function.get('arguments')}) as {call.get('id')}]")
        else:
            lines.append("[calls a tool]")
    lines.extend(attachments.labels_beside(message))
    return "\n".join(lines) or "[no text]"


def first_words(message: Message, width: int, *, end: str = "…") -> str:
    """Return how a message begins, in one line of at most `width` columns, with nothing that drives a terminal."""
    return cut(output.one_line(readable(message)[: 8 * width + 8]), width, end=end)


def cut(text: str, width: int, *, end: str = "…") -> str:
    """Return a line cut to at most `width` columns of a terminal, with `end` where something is missing."""
    taken = 0
    fitting = 0
    for place, character in enumerate(text):
        taken += _columns(character)
        if taken <= width - len(end):
            fitting = place + 1
        if taken > width:
            return text[:fitting].rstrip() + end
    return text


def _columns(character: str) -> int:
    if combining(character):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1
