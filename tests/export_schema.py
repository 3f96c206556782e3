"""Make docs/reference/export.schema.json, the JSON Schema of a line of convstore's own export.

PYTHONPATH=. python -m tests.export_schema
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convstore.values.export_format import (
    CONVERSATION_FIELDS,
    COUNTS,
    FORMAT_VERSION,
    MESSAGE_FIELDS,
    ORIGIN_FIELDS,
    RATING_FIELDS,
    REDACTION_FIELDS,
    SUMMARY_FIELDS,
    TURN_FIELDS,
    Field,
    Kind,
)

PATH = Path(__file__).resolve().parent.parent / "docs" / "reference" / "export.schema.json"

_KINDS: dict[Kind, dict[str, Any]] = {
    Kind.INTEGER: {"type": "integer"},
    Kind.NUMBER: {"type": "number"},
    Kind.TEXT: {"type": "string"},
    Kind.LABEL: {"type": "string"},
    Kind.MOMENT: {"type": "string", "format": "date-time"},
    Kind.BYTES: {"type": "string", "pattern": "^([0-9a-f]{2})+$"},
    Kind.OBJECT: {"type": "object"},
    Kind.LIST: {"type": "array"},
}
_COUNT = {"type": "integer", "minimum": 0}


def make_schema() -> dict[str, Any]:
    """Return the schema of a line."""
    text = {"type": "string"}
    conversation = {
        **dict.fromkeys(COUNTS.values(), _COUNT),
        "tags": {"type": "array", "items": text, "uniqueItems": True},
        "forked_from": _make_object(ORIGIN_FIELDS),
    }
    message = {
        "message": {"type": "object", "properties": {"role": text}, "required": ["role"]},
        "rating": {**_make_object(RATING_FIELDS)},
        "redaction": {**_make_object(REDACTION_FIELDS)},
    }
    message["rating"]["properties"]["rating"] = {"enum": ["good", "bad"]}
    message["redaction"]["properties"]["extent"] = {"enum": ["message", "part"]}
    turn = {"status": {"enum": ["completed", "interrupted", "failed"]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of an export of convstore",
        "oneOf": [
            _make_line("export", {"convstore": {"const": FORMAT_VERSION}}),
            _make_line("conversation", conversation, CONVERSATION_FIELDS, optional=("tags", "forked_from")),
            _make_line("message", message, MESSAGE_FIELDS, optional=("rating", "redaction")),
            _make_line("turn", turn, TURN_FIELDS),
            _make_line("summary", {}, SUMMARY_FIELDS),
            _make_line("end", {"conversations": _COUNT, "messages": _COUNT}),
        ],
    }


def _make_line(
    kind: str, more: dict[str, Any], fields: tuple[Field, ...] = (), optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    made = _make_object(fields)
    required = [*made["required"], *(name for name in more if name not in optional and name not in made["properties"])]
    properties = {"type": {"const": kind}, **made["properties"], **more}
    return {**made, "properties": properties, "required": ["type", *required]}


def _make_object(fields: tuple[Field, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {field.name: dict(_KINDS[field.kind]) for field in fields},
        "required": [field.name for field in fields if field.is_required],
        "additionalProperties": False,
    }


def write_schema() -> str:
    """Return the schema as it stands in the file."""
    return json.dumps(make_schema(), indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(write_schema())
