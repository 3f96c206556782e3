"""`say -a`: files and URLs become content parts of a message."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from convstore.cli.render import media_types

_MOST = 256 * 1024**2  # bytes of a file: more than any provider takes, and fewer than /dev/zero has

F = TypeVar("F", bound=Callable[..., Any])


def attach_option(command: F) -> F:
    """What to send with the message; `parts` turns it into content parts."""
    return click.option(
        "-a",
        "--attach",
        "attached",
        multiple=True,
        metavar="FILE|URL",
        help="An image, a sound or a file to send with it, or an image's URL; repeatable.",
    )(command)


def parts(attached: Sequence[str]) -> list[dict[str, Any]]:
    """Return a content part for each FILE or URL.

    Raises:
        click.UsageError: one cannot be read, or is empty.
    """
    return [_of_url(item) if re.match("https?://", item, re.IGNORECASE) else _of_file(item) for item in attached]


def with_text(text: str | None, more: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return what to say: the text alone where nothing is attached, else parts, the text first if there is any."""
    if not more:
        return text or ""
    return [{"type": "text", "text": text}, *more] if text and text.strip() else more


def names(attached: Sequence[str]) -> str:
    """Return what to call a message that has attachments and no text."""
    return ", ".join(item.rstrip("/").rpartition("/")[2] for item in attached)


def _of_url(url: str) -> dict[str, Any]:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host:
        raise click.UsageError(f"{url} is not a URL that can be attached: it names no host.")
    return {"type": "image_url", "image_url": {"url": url}}


def _of_file(path: str) -> dict[str, Any]:
    data = _read(path)
    name = Path(path).name
    kind = media_types.by_content(data)
    if kind in media_types.IMAGES:
        return {"type": "image_url", "image_url": {"url": _data_url(kind, data)}}
    if kind in media_types.SOUNDS:
        return {"type": "input_audio", "input_audio": {"data": _base64(data), "format": media_types.SOUNDS[kind]}}
    text = _text(data) if kind is None else None
    if text is not None:
        # Of files the API takes PDF alone; the text of others is to be sent as text
        # (https://developers.openai.com/api/docs/guides/file-inputs).
        return {"type": "text", "text": f"{name}:\n\n{text}"}
    return {"type": "file", "file": {"filename": name, "file_data": _data_url(kind or media_types.by_name(name), data)}}


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST + 1)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be attached: {error.strerror}.") from None
    if not data:
        raise click.UsageError(f"{path} cannot be attached: it is empty.")
    if len(data) > _MOST:
        raise click.UsageError(f"{path} cannot be attached: it is larger than {media_types.size(_MOST)}.")
    return data


def _text(data: bytes) -> str | None:
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{_base64(data)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
