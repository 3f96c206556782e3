"""Which messages to send: pure functions over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convstore.messages import Message, to_request
from convstore.records import MessageRecord


@dataclass(frozen=True, slots=True)
class Window:
    """What the model is to see: messages in request form, and what is put on record about the choice."""

    messages: list[Message]
    facts: dict[str, Any]
    """`history`: how many messages of the path were sent; `from_seq`: the first of them (None: none)."""


def whole(path: Sequence[MessageRecord], new: Sequence[Message]) -> Window:
    """Everything on the path, then the new messages.

    Args:
        path: in order, as `ledger.messages.path` returns it; empty to send the new messages alone.
        new: the turn's input, in exact form.
    """
    messages = [to_request(record.message) for record in path]
    messages.extend(to_request(message) for message in new)
    return Window(messages, {"history": len(path), "from_seq": path[0].seq if path else None})
