"""Guess media types from the first bytes, because a file's name may be wrong."""

from __future__ import annotations

import re
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mimetypes import MimeTypes

UNKNOWN_BYTES = "application/octet-stream"
"""The media type of bytes if their type is unknown."""

_BEGINNINGS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"RIFF.{4}WAVE", re.DOTALL), "audio/wav"),
    (re.compile(rb"ID3[\x02-\x04]"), "audio/mpeg"),
    # A frame of MPEG audio, layer III: eleven bits set, a version, and a bit rate that exists.
    (re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]"), "audio/mpeg"),
    (re.compile(rb"OggS"), "audio/ogg"),
    (re.compile(rb"fLaC"), "audio/flac"),
    (re.compile(rb"%PDF-"), "application/pdf"),
)
_EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/flac": "flac",
    "application/pdf": "pdf",
}
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""The types that the API accepts as `image_url`."""
AUDIO_FORMATS = {"audio/wav": "wav", "audio/mpeg": "mp3"}
"""The types that the API accepts as `input_audio`, and the API's names of the formats."""

_SAFE_EXTENSION = re.compile(r"[A-Za-z0-9]{1,10}")


@cache
def _load_types() -> MimeTypes:
    from mimetypes import MimeTypes

    return MimeTypes()  # Python's own table: the same on every machine


def guess_by_content(data: bytes) -> str | None:
    """Return the media type that the first bytes show, or None."""
    return next((kind for beginning, kind in _BEGINNINGS if beginning.match(data)), None)


def guess_by_name(name: str) -> str:
    """Return the media type that the name of a file suggests."""
    kind, encoding = _load_types().guess_type(name)
    return kind if kind is not None and encoding is None else UNKNOWN_BYTES


def choose_extension(data: bytes, *, name: str | None = None, kind: str | None = None) -> str:
    """Return an extension for a file of these bytes, without the dot.

    It holds only letters and digits, so it cannot change the path.

    Args:
        data: the content. If it shows its type, the other arguments are not used.
        name: the original name of the file. If it has an extension, `kind` is not used.
        kind: the media type.
    """
    known = _EXTENSIONS.get(guess_by_content(data) or "")
    if known is not None:
        return known
    for candidate in (PurePath(name or "").suffix, _load_types().guess_extension(kind or "") or ""):
        if _SAFE_EXTENSION.fullmatch(candidate.removeprefix(".")):
            return candidate.removeprefix(".").lower()
    return "bin"


def format_size(count: int) -> str:
    """Return a number of bytes as text: `512 bytes`, `48 KiB`, `1.2 MiB`."""
    if count < 1024:
        return f"{count} byte{'' if count == 1 else 's'}"
    if count < 1024 * 1000:
        return f"{round(count / 1024)} KiB"
    return f"{count / 1024**2:.1f}".removesuffix(".0") + " MiB"
