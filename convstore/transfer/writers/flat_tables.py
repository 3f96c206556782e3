"""Conversations as two tables, for analysis: a row for each message, and a row for each turn.

`csv_tables` and `parquet_tables` write them. The two tables meet in (`conversation`, `turn`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from convstore.messages.completion import Usage
from convstore.messages.message import extract_text
from convstore.transfer.writers.written_text import replace_lone_surrogates, to_strict_json
from convstore.values.exported import ExportedConversation

ColumnType: TypeAlias = Literal["text", "integer", "number", "boolean", "time"]
Value: TypeAlias = "str | int | float | bool | datetime | None"
Row: TypeAlias = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its columns, and how its rows are made of a conversation."""

    columns: dict[str, ColumnType]
    list_rows: Callable[[ExportedConversation], Iterator[Row]]


def _list_messages(exported: ExportedConversation) -> Iterator[Row]:
    conversation = exported.conversation
    for one in exported.messages:
        message = one.record.message
        calls = message.get("tool_calls")
        yield (
            conversation.id,
            _clean(conversation.title),
            one.record.position,
            one.record.seq,
            one.record.parent_seq,
            one.on_path,
            _clean(message["role"]),
            _clean(message.get("name")),
            _clean(extract_text(message)),
            to_strict_json(calls) if calls else None,
            _clean(one.model),
            one.status.value if one.status is not None else None,
            one.rating.rating.value if one.rating is not None else None,
            _clean(one.rating.note) if one.rating is not None else None,
            one.record.created_at,
            one.record.tokens,
            one.record.turn,
            one.record.redacted_at,
        )


def _list_turns(exported: ExportedConversation) -> Iterator[Row]:
    for turn in exported.turns:
        usage = turn.usage or Usage()
        yield (
            exported.conversation.id,
            turn.seq,
            turn.purpose,
            turn.status.value,
            _clean(turn.model),
            _clean(turn.request.get("model")),
            _clean(turn.finish_reason),
            turn.output_seq,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens,
            turn.cost,
            turn.latency,
            turn.time_to_first_token,
            turn.started_at,
            turn.ended_at,
            _clean((turn.error or {}).get("message")),
        )


def _clean(value: Any) -> str | None:
    """Return a text as UTF-8 can hold it, with U+FFFD for halves of characters; what is no text as its JSON."""
    if not isinstance(value, str):
        return None if value is None else to_strict_json(value)
    return replace_lone_surrogates(value)


MESSAGES = Table(
    {
        "conversation": "text",
        "title": "text",
        "position": "integer",
        "seq": "integer",
        "parent_seq": "integer",
        "on_path": "boolean",
        "role": "text",
        "name": "text",
        "text": "text",
        "tool_calls": "text",
        "model": "text",
        "status": "text",
        "rating": "text",
        "note": "text",
        "created_at": "time",
        "tokens": "integer",
        "turn": "integer",
        "redacted_at": "time",
    },
    _list_messages,
)

TURNS = Table(
    {
        "conversation": "text",
        "turn": "integer",
        "purpose": "text",
        "status": "text",
        "model": "text",
        "requested_model": "text",
        "finish_reason": "text",
        "output_seq": "integer",
        "prompt_tokens": "integer",
        "completion_tokens": "integer",
        "total_tokens": "integer",
        "cached_tokens": "integer",
        "reasoning_tokens": "integer",
        "cost": "number",
        "latency": "number",
        "time_to_first_token": "number",
        "started_at": "time",
        "ended_at": "time",
        "error": "text",
    },
    _list_turns,
)
