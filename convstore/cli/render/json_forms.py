"""The JSON forms that commands print: what scripts may rely on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convstore.messages.completion import Completion
from convstore.values.results import Conversation, MessageRecord, Turn


def conversation_form(conversation: Conversation) -> dict[str, Any]:
    """A conversation without its messages."""
    return {
        "id": conversation.id,
        "name": conversation.name,
        "title": conversation.title,
        "settings": conversation.settings,
        "window": conversation.window,
        "metadata": conversation.metadata,
        "pins": list(conversation.pins),
        "forked_from": conversation.forked_from,
        "forked_at": conversation.forked_at,
        "length": conversation.length,
        "head_seq": conversation.head_seq,
        "created_at": conversation.created_at,
        "updated_at": conversation.updated_at,
    }


def summary_form(conversation: Conversation) -> dict[str, Any]:
    """A conversation as one of a list."""
    return {
        "id": conversation.id,
        "name": conversation.name,
        "title": conversation.title,
        "messages": conversation.length,
        "model": conversation.model,
        "updated_at": conversation.updated_at,
    }


def message_form(record: MessageRecord) -> dict[str, Any]:
    """A message where it stands, in its exact form."""
    return {
        "position": record.position,
        "seq": record.seq,
        "turn": record.turn,
        "created_at": record.created_at,
        "message": record.message,
    }


def completion_form(completion: Completion) -> dict[str, Any]:
    """A reply that was not stored."""
    return {
        "conversation": None,
        "turn": None,
        "status": "not_stored",
        "message": completion.messages[0],
        "finish_reason": completion.finish_reason,
        "model": completion.model,
        "usage": completion.usage,
        "cost": None,
    }


def turn_form(turn: Turn) -> dict[str, Any]:
    """How a turn came out."""
    return {
        "conversation": turn.conversation_id,
        "turn": turn.seq,
        "status": turn.status.value,
        "message": turn.message,
        "finish_reason": turn.finish_reason,
        "model": turn.model,
        "usage": turn.usage,
        "cost": turn.cost,
        **({"error": turn.error} if turn.error is not None else {}),
    }


def full_turn_form(turn: Turn, asked: Sequence[MessageRecord]) -> dict[str, Any]:
    """A turn with all that is on record about it."""
    whole = turn.status.value == "completed"
    return {
        "turn": turn.seq,
        "purpose": turn.purpose,
        "status": turn.status.value,
        "input": [record.message for record in asked],
        "output": turn.message if whole else None,
        "partial": None if whole else turn.message,
        "error": turn.error,
        "attempts": list(turn.attempts),
        "finish_reason": turn.finish_reason,
        "model": turn.model,
        "usage": turn.usage,
        "cost": turn.cost,
        "request": turn.request,
        "window": turn.window.to_json_object() if turn.window is not None else None,
        "estimated_tokens": turn.estimated_tokens,
        "response_id": turn.response_id,
        "system_fingerprint": turn.system_fingerprint,
        "idempotency_key": turn.idempotency_key,
        "input_seqs": [record.seq for record in asked],
        "output_seq": turn.output_seq,
        "latency": turn.latency,
        "time_to_first_token": turn.time_to_first_token,
        "started_at": turn.started_at,
        "ended_at": turn.ended_at,
    }
