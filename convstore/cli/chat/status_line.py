"""The status line: conversation, model, tokens of the window, cost so far."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from convstore.cli.render.output_streams import make_one_line
from convstore.cli.render.text_width import cut_line

if TYPE_CHECKING:
    from convstore.cli.chat.chat_session import ChatSession

_GAP = " · "


def describe_status(session: ChatSession, width: int) -> str:
    """Return the status of a chat as one line of at most `width` columns."""
    conversation = session.conversation
    place = "new conversation" if conversation is None else conversation.name or conversation.title or conversation.id
    model = session.model or os.environ.get("CONVSTORE_MODEL") or "no model"
    parts = [make_one_line(model)]
    if session.figures.tokens is not None:
        parts.append(f"{session.figures.tokens:,} tokens")
    if session.figures.cost is not None:
        parts.append(f"{session.figures.cost:.4f}".rstrip("0").rstrip(".") + f" {session.currency}".rstrip())
    if session.next.system is not None:
        parts.append("system message waits")
    if session.next.attached:
        parts.append(f"{len(session.next.attached)} attached")
    rest = _GAP.join(parts)
    # The name gives way first: what it is is seen above, too.
    room = max(8, width - len(rest) - len(_GAP))
    return cut_line(_GAP.join((cut_line(make_one_line(place), room), rest)), width)
