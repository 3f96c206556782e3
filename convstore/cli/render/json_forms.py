"""Make the JSON that commands print. Scripts rely on its form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convstore.messages.completion import Completion
    from convstore.usage.usage_report import UsageReport, UsageRow
    from convstore.values.export_report import ExportReport
    from convstore.values.import_report import ImportReport
    from convstore.values.redaction_report import Redaction
    from convstore.values.results import Conversation, MessageRecord, Rating, Summary, Turn
    from convstore.values.search_results import SearchHit


def conversation_to_json(conversation: Conversation) -> dict[str, Any]:
    """Return the form of a conversation, without its messages."""
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
        "tags": list(conversation.tags),
        "created_at": conversation.created_at,
        "updated_at": conversation.updated_at,
        "archived_at": conversation.archived_at,
    }


def listed_conversation_to_json(conversation: Conversation) -> dict[str, Any]:
    """Return the short form of a conversation, for a list."""
    return {
        "id": conversation.id,
        "name": conversation.name,
        "title": conversation.title,
        "messages": conversation.length,
        "model": conversation.model,
        "tags": list(conversation.tags),
        "updated_at": conversation.updated_at,
        "cursor": conversation.cursor,
    }


def rating_to_json(rating: Rating) -> dict[str, Any]:
    """Return the form of a reply's rating."""
    return {"seq": rating.seq, "rating": rating.rating.value, "note": rating.note, "rated_at": rating.rated_at}


def message_to_json(record: MessageRecord, rating: Rating | None = None) -> dict[str, Any]:
    """Return the form of a message: its place, the message in its exact form; its rating, and when it was redacted."""
    return {
        "position": record.position,
        "seq": record.seq,
        "turn": record.turn,
        "created_at": record.created_at,
        "message": record.message,
        **({"redacted_at": record.redacted_at} if record.redacted_at is not None else {}),
        **({"rating": rating_to_json(rating)} if rating is not None else {}),
    }


def search_hit_to_json(hit: SearchHit) -> dict[str, Any]:
    """Return the form of a search hit."""
    return {
        "conversation": hit.conversation,
        "title": hit.title,
        "position": hit.position,
        "seq": hit.seq,
        "role": hit.role,
        "on_path": hit.on_path,
        "status": hit.status,
        "snippet": hit.snippet,
        "marks": [list(mark) for mark in hit.marks],
        "created_at": hit.created_at,
    }


def redaction_to_json(done: Redaction) -> dict[str, Any]:
    """Return the form of what a redaction did, or would do."""
    return asdict(done)


def export_report_to_json(report: ExportReport) -> dict[str, Any]:
    """Return the form of what an export did."""
    return asdict(report)


def import_report_to_json(report: ImportReport) -> dict[str, Any]:
    """Return the form of what an import did."""
    return asdict(report)


def unstored_reply_to_json(completion: Completion) -> dict[str, Any]:
    """Return the form of a reply that could not be stored."""
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


def turn_to_json(turn: Turn) -> dict[str, Any]:
    """Return the form of a turn that has just ended: its reply and its status."""
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


def full_turn_to_json(turn: Turn, asked: Sequence[MessageRecord]) -> dict[str, Any]:
    """Return the form of a turn, with everything that is stored about it.

    Args:
        asked: the input messages of the turn.
    """
    is_complete = turn.status.value == "completed"
    return {
        "turn": turn.seq,
        "purpose": turn.purpose,
        "status": turn.status.value,
        "input": [record.message for record in asked],
        "output": turn.message if is_complete else None,
        "partial": None if is_complete else turn.message,
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
        "response_fields": turn.response_fields,
        "notes": list(turn.notes),
    }


def unanswered_turn_to_json(turn: Turn, asked: Sequence[MessageRecord]) -> dict[str, Any]:
    """Return the form of a turn without a complete reply."""
    return {
        "turn": turn.seq,
        "status": turn.status.value,
        "error": turn.error,
        "messages": [record.message for record in asked],
        "reply": turn.message,
    }


def summary_to_json(summary: Summary) -> dict[str, Any]:
    """Return the form of a summary."""
    return {
        "turn": summary.turn,
        "up_to_position": summary.up_to_position,
        "up_to_seq": summary.up_to_seq,
        "tokens": summary.tokens,
        "text": summary.text,
        "created_at": summary.created_at,
    }


def usage_to_json(report: UsageReport) -> dict[str, Any]:
    """Return the form of a usage report."""
    return {
        "by": report.by,
        "since": report.since,
        "until": report.until,
        "currency": report.currency,
        "total": _usage_row_to_json(report.total),
        "rows": [
            {report.by: row.key, **({"label": row.label} if row.label is not None else {}), **_usage_row_to_json(row)}
            for row in report.rows
        ],
    }


def _usage_row_to_json(row: UsageRow) -> dict[str, Any]:
    return {
        "turns": row.turns,
        "failed": row.failed,
        "interrupted": row.interrupted,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "turns_without_usage": row.turns_without_usage,
        "cost": row.cost,
        "turns_without_price": row.turns_without_price,
        "latency_median": row.latency_median,
        "latency_p95": row.latency_p95,
    }
