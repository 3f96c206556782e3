"""Define the lines of convstore's own export: which fields each has, and how a value stands in JSON.

A file is JSON Lines. The first line names the format; then each conversation is a line, followed by the lines of its
messages, turns and summaries; the last line counts them. docs/reference/export.md describes it, and
docs/reference/export.schema.json is a JSON Schema of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeAlias

from convstore.errors import InvalidInput
from convstore.messages.storable_text import from_column, is_storable, to_column, to_json
from convstore.values.identifiers import Seq
from convstore.values.redaction_report import RedactionExtent, RedactionMark
from convstore.values.results import Rating, RatingValue

FORMAT_VERSION = 1
"""The version that this release writes. It reads this one and earlier ones."""

Line: TypeAlias = dict[str, Any]
"""A line of an export, as a JSON object."""

_MAX_INTEGER = 2**62  # so that it can still be counted on
_MAX_NUMBER = 10**9  # a cost that PostgreSQL can store
_MAX_DIGEST_CHARACTERS = 128


class Kind(Enum):
    """How a value stands in a line, and in its column."""

    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    LABEL = "label"
    """A text; in its column, one that no database can hold is JSON."""
    MOMENT = "moment"
    BYTES = "bytes"
    OBJECT = "object"
    LIST = "list"


_DESCRIPTIONS = {
    Kind.INTEGER: "a whole number of at most 62 bits",
    Kind.NUMBER: "a number below 1,000,000,000",
    Kind.TEXT: "a text",
    Kind.LABEL: "a text",
    Kind.MOMENT: "a time with its time zone (ISO 8601)",
    Kind.BYTES: "hexadecimal digits",
    Kind.OBJECT: "a JSON object",
    Kind.LIST: "a JSON array",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a line; its column has the same name."""

    name: str
    kind: Kind
    is_required: bool = False


def _make_fields(required: Mapping[str, Kind], optional: Mapping[str, Kind]) -> tuple[Field, ...]:
    return (
        *(Field(name, kind, is_required=True) for name, kind in required.items()),
        *(Field(name, kind) for name, kind in optional.items()),
    )


CONVERSATION_FIELDS = _make_fields(
    {
        "id": Kind.TEXT,
        "settings": Kind.OBJECT,
        "metadata": Kind.OBJECT,
        "head_seq": Kind.INTEGER,
        "length": Kind.INTEGER,
        "next_seq": Kind.INTEGER,
        "next_turn": Kind.INTEGER,
        "created_at": Kind.MOMENT,
        "updated_at": Kind.MOMENT,
    },
    {
        "name": Kind.TEXT,
        "title": Kind.LABEL,
        "made_title": Kind.LABEL,
        "window": Kind.OBJECT,
        "pins": Kind.LIST,
        "redo": Kind.LIST,
        "summary_turn": Kind.INTEGER,
        "inherited_model": Kind.LABEL,
        "creation_digest": Kind.BYTES,
        "archived_at": Kind.MOMENT,
        "deleted_at": Kind.MOMENT,
    },
)
TURN_FIELDS = _make_fields(
    {
        "seq": Kind.INTEGER,
        "status": Kind.TEXT,
        "base_seq": Kind.INTEGER,
        "request": Kind.OBJECT,
        "started_at": Kind.MOMENT,
    },
    {
        "ended_at": Kind.MOMENT,
        "first_input_seq": Kind.INTEGER,
        "last_input_seq": Kind.INTEGER,
        "output_seq": Kind.INTEGER,
        "purpose": Kind.TEXT,
        "idempotency_key": Kind.LABEL,
        "input_digest": Kind.BYTES,
        "requested_model": Kind.LABEL,
        "model": Kind.LABEL,
        "response_id": Kind.LABEL,
        "system_fingerprint": Kind.LABEL,
        "finish_reason": Kind.LABEL,
        "estimated_tokens": Kind.INTEGER,
        "prompt_tokens": Kind.INTEGER,
        "completion_tokens": Kind.INTEGER,
        "total_tokens": Kind.INTEGER,
        "cached_tokens": Kind.INTEGER,
        "reasoning_tokens": Kind.INTEGER,
        "usage": Kind.OBJECT,
        "cost": Kind.NUMBER,
        "latency_ms": Kind.INTEGER,
        "first_token_ms": Kind.INTEGER,
        "window": Kind.OBJECT,
        "error": Kind.OBJECT,
        "attempts": Kind.LIST,
        "stop_requested_at": Kind.MOMENT,
        "response_fields": Kind.OBJECT,
        "notes": Kind.LIST,
    },
)
SUMMARY_FIELDS = _make_fields(
    {
        "turn_seq": Kind.INTEGER,
        "up_to_seq": Kind.INTEGER,
        "up_to_position": Kind.INTEGER,
        "text": Kind.LABEL,
        "tokens": Kind.INTEGER,
        "created_at": Kind.MOMENT,
    },
    {"previous_turn": Kind.INTEGER},
)
MESSAGE_FIELDS = _make_fields(
    {
        "seq": Kind.INTEGER,
        "parent_seq": Kind.INTEGER,
        "position": Kind.INTEGER,
        "created_at": Kind.MOMENT,
        "digest": Kind.BYTES,
        "message": Kind.OBJECT,
    },
    {"turn": Kind.INTEGER, "tokens": Kind.INTEGER},
)
REDACTION_FIELDS = _make_fields({"extent": Kind.TEXT, "redacted_at": Kind.MOMENT}, {})
RATING_FIELDS = _make_fields({"rating": Kind.TEXT, "rated_at": Kind.MOMENT}, {"note": Kind.LABEL})
ORIGIN_FIELDS = _make_fields(
    {"id": Kind.TEXT, "up_to_seq": Kind.INTEGER, "up_to_turn": Kind.INTEGER}, {"digest": Kind.BYTES}
)

COUNTS = {"message": "messages", "turn": "turns", "summary": "summaries"}
"""The types of the lines that follow a conversation, and its fields with their numbers."""

_DECODERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.LABEL: from_column,
    Kind.BYTES: bytes.hex,
    Kind.OBJECT: json.loads,
    Kind.LIST: json.loads,
    Kind.MOMENT: datetime.isoformat,
    Kind.NUMBER: lambda number: round(float(number), 9),  # PostgreSQL keeps nine digits of a cost
}
_ENCODERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.LABEL: to_column,
    Kind.BYTES: bytes.fromhex,
    Kind.OBJECT: to_json,
    Kind.LIST: to_json,
    Kind.MOMENT: lambda text: datetime.fromisoformat(text).astimezone(UTC),
    Kind.NUMBER: float,
}
_TYPES: dict[Kind, type | tuple[type, ...]] = {
    Kind.INTEGER: int,
    Kind.NUMBER: (int, float),
    Kind.OBJECT: dict,
    Kind.LIST: list,
}


def read_columns(row: Any, fields: tuple[Field, ...]) -> Line:
    """Return the fields of a row that are not NULL.

    Raises:
        ValueError, TypeError: a column does not hold what its field is.
    """
    found: Line = {}
    for field in fields:
        value = getattr(row, field.name)
        if value is not None:
            decode = _DECODERS.get(field.kind)
            found[field.name] = value if decode is None else decode(value)
    return found


def check_line(line: Mapping[str, Any], fields: tuple[Field, ...], others: frozenset[str] = frozenset()) -> None:
    """Check the fields of a line.

    Args:
        others: fields that the line may have besides.

    Raises:
        InvalidInput: a field is missing or unknown, or a value is not of its kind.
    """
    known = 0
    for field in fields:
        value = line.get(field.name)
        known += field.name in line
        if value is None:
            if field.is_required:
                raise InvalidInput(f"the field {field.name!r} is missing")
        elif not _is_of_kind(value, field.kind):
            raise InvalidInput(f"the field {field.name!r} must be {_DESCRIPTIONS[field.kind]}, not {value!r:.80}")
    if len(line) > known + sum(name in line for name in others):
        names = {field.name for field in fields} | others
        for name in (name for name in line if name not in names):
            raise InvalidInput(f"the field {name!r:.80} is unknown: a newer release of convstore may have written it")


def _is_of_kind(value: object, kind: Kind) -> bool:
    if isinstance(value, bool) or not isinstance(value, _TYPES.get(kind, str)):
        return False
    if isinstance(value, int | float):
        return abs(value) <= _MAX_INTEGER if kind is Kind.INTEGER else abs(value) < _MAX_NUMBER
    if kind is Kind.TEXT:
        return is_storable(str(value))
    try:
        if kind is Kind.MOMENT:
            moment = datetime.fromisoformat(str(value))
            return moment.tzinfo is not None and moment.astimezone(UTC).year > 1
        if kind is Kind.BYTES:
            return len(str(value)) <= _MAX_DIGEST_CHARACTERS and bool(bytes.fromhex(str(value)))
    except (ValueError, OverflowError):
        return False
    return True


def make_columns(line: Mapping[str, Any], fields: tuple[Field, ...]) -> dict[str, Any]:
    """Return the columns of a line that `check_line` has passed."""
    columns: dict[str, Any] = {}
    for field in fields:
        value = line.get(field.name)
        encode = _ENCODERS.get(field.kind)
        columns[field.name] = value if value is None or encode is None else encode(value)
    return columns


def make_rating_fields(rating: Rating) -> Line:
    """Return a rating as it stands in the line of its message."""
    note = {"note": rating.note} if rating.note is not None else {}
    return {"rating": rating.rating.value, "rated_at": rating.rated_at.isoformat(), **note}


def make_rating(seq: Seq, fields: Mapping[str, Any]) -> Rating:
    """Return the rating that the line of a message has."""
    moment = _ENCODERS[Kind.MOMENT](fields["rated_at"])
    return Rating(seq, RatingValue(fields["rating"]), fields.get("note"), moment)


def make_redaction_fields(mark: RedactionMark) -> Line:
    """Return the mark of a redacted message as it stands in its line."""
    return {"extent": mark.extent.value, "redacted_at": mark.redacted_at.isoformat()}


def make_redaction_mark(fields: Mapping[str, Any]) -> RedactionMark:
    """Return the mark that the line of a message has."""
    return RedactionMark(RedactionExtent(fields["extent"]), _ENCODERS[Kind.MOMENT](fields["redacted_at"]))


def write_line(line: Line) -> bytes:
    """Return a line as it stands in a file."""
    return to_json(line).encode() + b"\n"
