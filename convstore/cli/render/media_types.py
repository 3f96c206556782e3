"""What bytes are, by how they begin: a file's name may say anything."""

from __future__ import annotations

import re
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mimetypes import MimeTypes

OCTETS = "application/octet-stream"

_BEGINNINGS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"RIFF.{4}WAVE", re.DOTALL), "audio/wav"),
    (re.compile(rb"ID3[\x02-\x04]"), "audio/mpeg"),
    # A frame of MPEG audio, layer III: eleven bits set, a version, and a bit rate that there is.
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
IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""What the API takes as an image."""
SOUNDS = {"audio/wav": "wav", "audio/mpeg": "mp3"}
"""What the API takes as audio, and what it calls it."""

_SAFE = re.compile(r"[A-Za-z0-9]{1,10}")


@cache
def _known() -> MimeTypes:
    from mimetypes import MimeTypes

    return MimeTypes()  # Python's own table: the same on every machine


def by_content(data: bytes) -> str | None:
    """Return the media type that bytes show by how they begin; None: they do not."""
    return next((kind for beginning, kind in _BEGINNINGS if beginning.match(data)), None)


def by_name(name: str) -> str:
    """Return the media type that a file's name suggests."""
    kind, encoding = _known().guess_type(name)
    return kind if kind is not None and encoding is None else OCTETS


def extension(data: bytes, *, name: str | None = None, kind: str | None = None) -> str:
    """Return an extension for a file of these bytes, without its dot, that no name can make a path of.

    Args:
        name: what it was called, where its content does not show what it is.
        kind: its media type, where its name does not help either.
    """
    known = _EXTENSIONS.get(by_content(data) or "")
    if known is not None:
        return known
    for candidate in (PurePath(name or "").suffix, _known().guess_extension(kind or "") or ""):
        if _SAFE.fullmatch(candidate.removeprefix(".")):
            return candidate.removeprefix(".").lower()
    return "bin"


def size(count: int) -> str:
    """Return a number of bytes as a person reads it: `512 bytes`, `48 KiB`, `1.2 MiB`."""
    if count < 1024:
        return f"{count} byte{'' if count == 1 else 's'}"
    if count < 1024 * 1000:
        return f"{round(count / 1024)} KiB"
    return f"{count / 1024**2:.1f}".removesuffix(".0") + " MiB"
