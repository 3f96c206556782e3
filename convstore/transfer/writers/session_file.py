"""What the writers of session files share: a file of another program in which a conversation goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from convstore.messages.message import Message, extract_text
from convstore.messages.request_form import IMPORTED_FIELD
from convstore.messages.storable_text import join_surrogates
from convstore.transfer.writers.written_text import to_strict_json
from convstore.values.results import Conversation, MessageRecord

NO_RESULT = "No result: the conversation was carried over before the tool had answered."
"""The result of a tool call that has none: an API refuses a history without it."""

REASONING_LOSS = "the reasoning of a reply is left out: only the server that wrote it could read it again"
EMPTY_LOSS = "a message without content is left out"
AUDIO_LOSS = "audio is left out; its transcript is carried"
UNANSWERED_LOSS = "a tool call without a result got one that says so"

_NAMESPACE = UUID("5d8f3c0e-6f0b-5a3f-9b43-1c5c8d1f6a27")
_READ_FIELDS = frozenset(
    {
        "role",
        "content",
        "audio",
        "tool_calls",
        "tool_call_id",
        "function_call",
        "refusal",
        "reasoning_content",
        "reasoning",
    }
)


@dataclass(frozen=True, slots=True)
class SessionFile:
    """A session file, before it is written."""

    id: str
    """The session's id, by which its program goes on with it."""
    path: str
    """Where it belongs, below the program's own folder; with `/` between the parts."""
    lines: Sequence[str]
    losses: Sequence[str]
    """What could not be carried, in words: one line each."""


def make_session_id(tool: str, conversation: Conversation, records: Sequence[MessageRecord], folder: str) -> str:
    """Return the id of a session: the same as long as the conversation and the project's folder are.

    The last message's digest names all messages before it.
    """
    parts = [tool, conversation.owner, conversation.id, records[-1].digest.hex(), folder]
    return str(uuid5(_NAMESPACE, json.dumps(parts)))


def make_record_id(session: str, number: int) -> str:
    """Return the id of a record of a session."""
    return str(uuid5(UUID(session), str(number)))


def format_time(moment: datetime) -> str:
    """Return a time as both programs write it: `2026-01-02T03:04:05.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_line(record: Mapping[str, Any]) -> str:
    """Return a record as a line of JSON that every program reads."""
    return to_strict_json(record)


def list_content_parts(message: Message) -> list[Mapping[str, Any]]:
    """Return the content of a message as parts; none of them is an empty text."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    found = [part for part in parts if isinstance(part, Mapping)]
    return [part for part in found if part.get("type") != "text" or (isinstance(part["text"], str) and part["text"])]


def read_text(message: Message) -> str:
    """Return the text of a message, without halves of characters."""
    return join_surrogates(extract_text(message))


def list_other_fields(message: Message) -> list[str]:
    """Return the fields of a message with values that no session file has a place for."""
    return sorted(key for key in message.keys() - _READ_FIELDS - {IMPORTED_FIELD} if message[key] not in (None, [], {}))


def count_lost_fields(message: Message, losses: Counter[str]) -> None:
    """Note the fields of a message that a session cannot have."""
    for field in list_other_fields(message):
        if not (message["role"] == "function" and field == "name"):
            losses[f"the field `{field:.40}` of a message is left out"] += 1
