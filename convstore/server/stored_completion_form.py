"""Stored completions, and what they answer, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convstore.messages.completion_form import make_completion
from convstore.messages.message import Message
from convstore.values.results import MessageRecord, Turn
from convstore.values.stored_completion import StoredCompletion


def to_stored_completion_form(completion: StoredCompletion) -> dict[str, Any]:
    """Return a completion as the client got it, with its metadata."""
    turn = completion.turn
    replies = list(completion.replies) or [{"role": "assistant", "content": None}]
    others = turn.response_fields.get("choices")
    found = others if isinstance(others, list) else []
    reasons = [
        found[place].get("finish_reason", turn.finish_reason)
        if place < len(found) and isinstance(found[place], dict)
        else turn.finish_reason
        for place in range(len(replies))
    ]
    facts = {**list_facts(turn), "id": completion.place.id}
    metadata = {name: text for name, text in completion.place.metadata.items() if isinstance(text, str)}
    return {**make_completion(facts, replies, reasons), "metadata": metadata}


def list_facts(turn: Turn) -> dict[str, Any]:
    """Return all fields of an answer that are not in its choices."""
    return {
        "id": turn.response_id,
        "created": int(turn.started_at.timestamp()),
        "model": turn.model or turn.request.get("model") or "",
        **({"system_fingerprint": turn.system_fingerprint} if turn.system_fingerprint else {}),
        **turn.response_fields,
        **({"usage": dict(turn.usage)} if turn.usage else {}),
    }


def to_stored_message_form(id: str, record: MessageRecord) -> dict[str, Any]:
    """Return a message that was asked, with an id of its own.

    Args:
        id: the id of the completion.
    """
    message: Message = {name: value for name, value in record.message.items() if not name.startswith("convstore_")}
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    return {
        "name": None,
        **message,
        "id": f"{id}-{record.position - 1}",
        "content": content if isinstance(content, str) else None,
        "content_parts": parts,
    }


def to_list_form(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return a page of a list of things that have ids."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
