"""Format a message as text: complete, or its first words on one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convstore.cli.render.attachment_labels import label_part, label_rest
from convstore.cli.render.output_streams import make_one_line
from convstore.cli.render.text_width import cut_line

if TYPE_CHECKING:
    from convstore.messages.message import Message


def format_message(message: Message) -> str:
    """Return the text of a message, with labels in brackets for everything else."""
    lines = []
    content = message.get("content")
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            lines.append(part["text"])
        elif isinstance(part, dict) and part.get("type") != "text":
            lines.extend(label_part(part))
    if isinstance(message.get("refusal"), str):
        lines.append(message["refusal"])
    calls = message.get("tool_calls")
    lines.extend(_label_tool_call(call) for call in (calls if isinstance(calls, list) else ()))
    lines.extend(label_rest(message))
    return "\n".join(lines) or f"[{_name_item(message) or 'no text'}]"


def _name_item(message: Message) -> str | None:
    """Return the kind of an item that says nothing as a chat message, or None."""
    value: Any = message
    for name in ("convstore_item", "patch", "set", "type"):  # as `messages.conversation_items` writes it
        value = value.get(name) if isinstance(value, dict) else None
    return value[:40] if isinstance(value, str) else None


def _label_tool_call(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return "[calls a tool]"
    return f"[calls {function.get('name')}({function.get('arguments')}) as {call.get('id')}]"


def take_first_words(message: Message, width: int, *, end: str = "…") -> str:
    """Return the first words of a message as one line of at most `width` columns.

    Its control characters are made visible.
    """
    return cut_line(make_one_line(format_message(message)[: 8 * width + 8]), width, end=end)
