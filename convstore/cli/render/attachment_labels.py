"""Find the images, sounds and files in a message, and label them.

A label is such as `[image/png, 48 KiB]`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convstore.cli.render.media_types import (
    AUDIO_FORMATS,
    UNKNOWN_BYTES,
    choose_extension,
    format_size,
    guess_by_content,
)
from convstore.cli.render.output_streams import make_one_line

if TYPE_CHECKING:
    from convstore.messages.message import Message

_DATA_URL = re.compile(r"data:([^,;]*)[^,]*;base64,", re.IGNORECASE)
# Places where APIs have base64 of any length without a data URL: (the key of an object, the key of the text in it).
_BASE64_PLACES = frozenset({("input_audio", "data"), ("audio", "data"), ("file", "file_data"), ("source", "data")})
_SOUND_KEYS = frozenset({"input_audio", "audio"})
_TEXT_KEYS = frozenset({"text", "content", "arguments"})  # never base64, even if the text looks like it
_NO_OBJECT: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image, a sound or a file in a message."""

    data: bytes
    media_type: str
    name: str | None
    """The file's original name."""
    audio_format: str | None
    """The API's name for the format of a sound, "" if unknown; None: it is not a sound."""

    @property
    def label(self) -> str:
        size = format_size(len(self.data))
        if self.name is not None:
            return make_one_line(f"[file {self.name}, {self.media_type}, {size}]")
        if self.audio_format is not None:
            return make_one_line(f"[audio {self.audio_format}".rstrip() + f", {size}]")
        return make_one_line(f"[{self.media_type}, {size}]")

    @property
    def extension(self) -> str:
        name = f"sound.{self.audio_format}" if self.name is None and self.audio_format else self.name
        return choose_extension(self.data, name=name, kind=self.media_type)


def find_attachments(value: Any) -> Iterator[Attachment]:
    """Yield the attachments at any depth of a message, or of a part of one.

    The forms of other vendors are found too.
    """
    return _find_below(value, "", "", _NO_OBJECT)


def _find_below(value: Any, key: str, parent_key: str, parent: Mapping[str, Any]) -> Iterator[Attachment]:
    """Yield the attachments in a value.

    Args:
        key: the key of the value in the object `parent`.
        parent_key: the key of `parent` in its own parent.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _find_below(item, name, key, value)
    elif isinstance(value, list):
        for item in value:
            yield from _find_below(item, key, parent_key, parent)
    elif isinstance(value, str) and key not in _TEXT_KEYS:
        found = _read_attachment(value, key, parent_key, parent)
        if found is not None:
            yield found


def _read_attachment(text: str, key: str, parent_key: str, parent: Mapping[str, Any]) -> Attachment | None:
    from convstore.messages.inline_data import MIN_BASE64_CHARACTERS

    url = _DATA_URL.match(text)
    is_base64 = url is not None or (parent_key, key) in _BASE64_PLACES
    if len(text) < MIN_BASE64_CHARACTERS and not is_base64:
        return None
    data = _decode_base64(text[url.end() :] if url is not None else text, is_base64=is_base64)
    if not data:
        return None
    declared = (url[1].lower() if url is not None else None) or _find_text(parent, "media_type", "mime_type")
    media_type = guess_by_content(data) or declared or UNKNOWN_BYTES
    is_sound = parent_key in _SOUND_KEYS
    audio_format = _find_text(parent, "format") or AUDIO_FORMATS.get(media_type, "") if is_sound else None
    return Attachment(data, media_type, _find_text(parent, "filename"), audio_format)


def _decode_base64(text: str, *, is_base64: bool) -> bytes | None:
    """Return the bytes of base64, or None if the text is something else.

    Args:
        is_base64: True if the text is where APIs have base64. Then line breaks and the URL-safe alphabet are accepted.
    """
    from convstore.messages.inline_data import decode_base64

    exact = decode_base64(text, 1)
    if exact is not None or not is_base64:
        return exact[1] if exact is not None else None
    text = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None


def _find_text(parent: Mapping[str, Any], *keys: str) -> str | None:
    return next((value for key in keys if isinstance(value := parent.get(key), str) and value), None)


def label_part(part: Any) -> list[str]:
    """Return the labels of a content part that is not text."""
    found = [attachment.label for attachment in find_attachments(part)]
    if found or not isinstance(part, dict):
        return found
    kind = part.get("type", "part")
    image, file = part.get("image_url"), part.get("file")
    url = image.get("url") if isinstance(image, dict) else image
    if isinstance(url, str) and _DATA_URL.match(url) is None:
        return [make_one_line(f"[image {url}]")]
    if isinstance(file, dict):
        named = ", ".join(name for key in ("filename", "file_id") if (name := _find_text(file, key)))
        return [make_one_line(f"[file {named}]")] if named else ["[file]"]
    return [make_one_line(f"[{kind}]")]


def label_rest(message: Message) -> list[str]:
    """Return the labels of attachments outside the content.

    Examples are a spoken reply, and images of other vendors.
    """
    rest = {key: value for key, value in message.items() if key != "content"}
    found = [attachment.label for attachment in find_attachments(rest)]
    return found or (["[audio]"] if message.get("audio") is not None else [])
