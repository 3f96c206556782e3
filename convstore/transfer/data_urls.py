"""Make content parts of files that a message carries."""

from __future__ import annotations

import base64
from typing import Any

MAX_ATTACHMENT_BYTES = 20 * 2**20

_AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}


def make_part(media_type: str, data: bytes, name: str | None = None) -> dict[str, Any] | None:
    """Return the content part of a file's bytes, or None if they exceed `MAX_ATTACHMENT_BYTES`."""
    if len(data) > MAX_ATTACHMENT_BYTES:
        return None
    return make_part_of_base64(media_type, base64.b64encode(data).decode(), name)


def make_part_of_base64(media_type: str, data: str, name: str | None = None) -> dict[str, Any] | None:
    """Return the content part of a file in base64, or None if it exceeds `MAX_ATTACHMENT_BYTES`."""
    if len(data) // 4 * 3 > MAX_ATTACHMENT_BYTES + 3:
        return None
    if media_type in _AUDIO_FORMATS:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO_FORMATS[media_type]}}
    url = f"data:{media_type};base64,{data}"
    if media_type.startswith("image/"):
        return make_image_part(url)
    return {"type": "file", "file": {"filename": name or "attachment", "file_data": url}}


def make_image_part(url: str) -> dict[str, Any]:
    """Return the content part of an image at a URL."""
    return {"type": "image_url", "image_url": {"url": url}}


def join_parts(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return the content of a message: the text if a text is all, else the parts."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].get("type") == "text":
        text = parts[0]["text"]
        return text if isinstance(text, str) else ""
    return parts
