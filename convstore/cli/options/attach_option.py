"""Read the attachments of `say -a FILE|URL` as content parts of the message."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from convstore.cli.render.media_types import AUDIO_FORMATS, IMAGE_TYPES, format_size, guess_by_content, guess_by_name

_MAX_FILE_BYTES = 256 * 1024**2  # more than any provider accepts; a limit is needed for files such as /dev/zero

attach_option = click.option(
    "-a",
    "--attach",
    "attached",
    multiple=True,
    metavar="FILE|URL",
    help="Image, sound or file to send, or the URL of an image; repeatable.",
)


def read_attachments(attached: Sequence[str]) -> list[dict[str, Any]]:
    """Return a content part for each FILE or URL.

    Raises:
        click.UsageError: a file cannot be read, is empty or is too large; or a URL names no host.
    """
    return [_read_url(item) if re.match("https?://", item, re.IGNORECASE) else _read_file(item) for item in attached]


def join_text_and_parts(text: str, parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return the content of a message: the text, or a list with it as the first part.

    It is a list if there are attachments. An empty text is left out of the list.
    """
    if not parts:
        return text
    return [{"type": "text", "text": text}, *parts] if text.strip() else parts


def list_file_names(attached: Sequence[str]) -> str:
    """Return the names of the attachments, which are the title if there is no text."""
    return ", ".join(item.rstrip("/").rpartition("/")[2] for item in attached)


def _read_url(url: str) -> dict[str, Any]:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host:
        raise click.UsageError(f"'{url}' cannot be attached: the URL names no host.")
    return {"type": "image_url", "image_url": {"url": url}}


def _read_file(path: str) -> dict[str, Any]:
    data = _read_bytes(path)
    name = Path(path).name
    kind = guess_by_content(data)
    if kind in IMAGE_TYPES:
        return {"type": "image_url", "image_url": {"url": _make_data_url(kind, data)}}
    if kind in AUDIO_FORMATS:
        return {"type": "input_audio", "input_audio": {"data": _encode_base64(data), "format": AUDIO_FORMATS[kind]}}
    text = _decode_text(data) if kind is None else None
    if text is not None:
        # The API accepts only PDF as a file, so other text files are sent as text
        # (https://developers.openai.com/api/docs/guides/file-inputs).
        return {"type": "text", "text": f"{name}:\n\n{text}"}
    return {"type": "file", "file": {"filename": name, "file_data": _make_data_url(kind or guess_by_name(name), data)}}


def _read_bytes(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"'{path}' cannot be attached: {error.strerror}.") from None
    if not data:
        raise click.UsageError(f"'{path}' cannot be attached: it is empty.")
    if len(data) > _MAX_FILE_BYTES:
        raise click.UsageError(f"'{path}' cannot be attached: it is larger than {format_size(_MAX_FILE_BYTES)}.")
    return data


def _decode_text(data: bytes) -> str | None:
    """Return the text of a file, or None if it is not UTF-8 text."""
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _make_data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{_encode_base64(data)}"


def _encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
