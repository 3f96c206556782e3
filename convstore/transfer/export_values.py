"""Read values of other programs' JSON that may be missing or of another type."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from convstore.messages.request_form import IMPORTED_FIELD
from convstore.messages.storable_text import is_storable

MAX_ID_CHARACTERS = 200
"""A longer id is replaced by its digest."""
MAX_RAW_DEPTH = 90
"""The nesting of a raw value that a message keeps; a message is stored with at most 100."""
MAX_TITLE_CHARACTERS = 500

# Seconds in the year 5138; milliseconds in 1973.
_MAX_SECONDS = 1e11


def to_object(value: Any) -> dict[str, Any]:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def to_list(value: Any) -> list[Any]:
    """Return the value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def to_text(value: Any) -> str:
    """Return the value if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def to_label(value: Any) -> str | None:
    """Return a title or a model's name on one line, or None."""
    return _make_label(value) if isinstance(value, str) else None


@lru_cache(maxsize=256)  # a few models' names stand at thousands of messages
def _make_label(text: str) -> str | None:
    return " ".join(text.replace("\0", "").split())[:MAX_TITLE_CHARACTERS] or None


def to_id(value: Any) -> str | None:
    """Return the value as an id, or None if it is none.

    A text that is too long, or that a database cannot hold, is replaced by its digest.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # shorter than the digits that Python refuses, because it was read from digits
    if not isinstance(value, str) or not value.strip():
        return None
    if len(value) > MAX_ID_CHARACTERS or not is_storable(value):
        return make_id(value)
    return value


def make_id(*values: Any) -> str:
    """Return an id that depends on the values alone."""
    text = json.dumps(values, sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def to_time(value: Any) -> datetime | None:
    """Return a time in UTC, or None if the value is none.

    Args:
        value: seconds, milliseconds or nanoseconds since 1970; or a text of ISO 8601, in UTC if it names no zone.
    """
    if isinstance(value, str):
        return _parse_time(value.strip())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        seconds = float(value)
        while _MAX_SECONDS < seconds < math.inf:
            seconds /= 1000
        return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
    except (OverflowError, ValueError, OSError):
        return None


def _parse_time(text: str) -> datetime | None:
    if re.fullmatch(r"\d{9,19}(\.\d{1,9})?", text):
        return to_time(float(text))
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (OverflowError, ValueError):
        return None


def keep_raw(value: Any) -> dict[str, Any]:
    """Return the field of a message that keeps a raw value."""
    return {IMPORTED_FIELD: to_kept(value)}


def to_kept(value: Any, depth: int = MAX_RAW_DEPTH) -> Any:
    """Return the value as a message can keep it: not too deep, no infinity."""
    if isinstance(value, (dict, list)):
        if depth == 0:
            return f"[nested more than {MAX_RAW_DEPTH} levels deep]"
        if isinstance(value, dict):
            return {key: to_kept(item, depth - 1) for key, item in value.items()}
        return [to_kept(item, depth - 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def keep_small(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are worth keeping as metadata.

    These are short texts, numbers, booleans, and lists of short texts, if not empty.
    """
    return {key: value for key, value in values.items() if _is_small(value)}


def _is_small(value: Any) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= 50 and all(isinstance(item, str) and len(item) <= 100 for item in value)
    if isinstance(value, str):
        return 0 < len(value) <= MAX_TITLE_CHARACTERS
    return (isinstance(value, float) and math.isfinite(value)) or (isinstance(value, int) and abs(value) < 2**63)


def join_texts(texts: Iterable[str], separator: str = "\n\n") -> str:
    """Return the texts that are not blank, joined."""
    return separator.join([text for text in texts if text and not text.isspace()])


def count_notes(counts: Mapping[str, int], sentence: str) -> list[str]:
    """Return a note if anything was counted, such as `left out: 2 system, 1 tool`."""
    parts = [f"{count} {name}" for name, count in sorted(counts.items()) if count]
    return [f"{sentence}: {', '.join(parts)}"] if parts else []
