"""The images, sounds and files in messages: named for people, and written out."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.render import media_types, output

if TYPE_CHECKING:
    from convstore.messages.codec import Message
    from convstore.values.results import MessageRecord

_DATA_URL = re.compile(r"data:([^,;]*)[^,]*;base64,", re.IGNORECASE)
# Where APIs have base64 that is no data URL, however little of it: (the object's place, the text's key).
_BASE64 = frozenset({("input_audio", "data"), ("audio", "data"), ("file", "file_data"), ("source", "data")})
_SOUNDS = frozenset({"input_audio", "audio"})
_NOTHING: Mapping[str, Any] = {}
_SAID = frozenset({"text", "content", "arguments"})  # what people and models say, whatever it looks like


@dataclass(frozen=True, slots=True)
class Attached:
    """What a message carries beside its text."""

    data: bytes
    kind: str
    """Its media type."""
    name: str | None
    """What the file was called."""
    sound: str | None
    """Of a sound, what the API calls its format; `""` where nobody says."""

    @property
    def label(self) -> str:
        size = media_types.size(len(self.data))
        if self.name is not None:
            return output.one_line(f"[file {self.name}, {self.kind}, {size}]")
        if self.sound is not None:
            return output.one_line(f"[audio {self.sound}".rstrip() + f", {size}]")
        return output.one_line(f"[{self.kind}, {size}]")

    @property
    def extension(self) -> str:
        name = f"sound.{self.sound}" if self.name is None and self.sound else self.name
        return media_types.extension(self.data, name=name, kind=self.kind)


def found_in(value: Any, key: str = "", inside: str = "", around: Mapping[str, Any] = _NOTHING) -> Iterator[Attached]:
    """Yield what is attached anywhere in a message, or in a part of one: of vendors' shapes too.

    Args:
        key: under which `value` stands.
        inside: the key of the object that it stands in.
        around: that object.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            yield from found_in(item, name, key, value)
    elif isinstance(value, list):
        for item in value:
            yield from found_in(item, key, inside, around)
    elif isinstance(value, str) and key not in _SAID:
        found = _attached(value, key, inside, around)
        if found is not None:
            yield found


def _attached(text: str, key: str, inside: str, around: Mapping[str, Any]) -> Attached | None:
    from convstore.messages.inline_data import LEAST

    url = _DATA_URL.match(text)
    surely = url is not None or (inside, key) in _BASE64
    if len(text) < LEAST and not surely:
        return None
    data = _decoded(text[url.end() :] if url is not None else text, surely=surely)
    if not data:
        return None
    said = (url[1].lower() if url is not None else None) or _said(around, "media_type", "mime_type")
    kind = media_types.by_content(data) or said or media_types.OCTETS
    sound = _said(around, "format") or media_types.SOUNDS.get(kind, "") if inside in _SOUNDS else None
    return Attached(data, kind, _said(around, "filename"), sound)


def _decoded(text: str, *, surely: bool) -> bytes | None:
    """Return the bytes of base64; where it surely is that, also of one in lines or in the URL-safe alphabet."""
    from convstore.messages.inline_data import read

    exact = read(text, 1)
    if exact is not None or not surely:
        return exact[1] if exact is not None else None
    text = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None


def _said(around: Mapping[str, Any], *keys: str) -> str | None:
    return next((value for key in keys if isinstance(value := around.get(key), str) and value), None)


def labels(part: Any) -> list[str]:
    """Return the names, in brackets, of what is in a content part that is no text."""
    found = [attached.label for attached in found_in(part)]
    if found or not isinstance(part, dict):
        return found
    kind = part.get("type", "part")
    image, file = part.get("image_url"), part.get("file")
    url = image.get("url") if isinstance(image, dict) else image
    if isinstance(url, str) and _DATA_URL.match(url) is None:
        return [output.one_line(f"[image {url}]")]
    if isinstance(file, dict):
        named = ", ".join(name for key in ("filename", "file_id") if (name := _said(file, key)))
        return [output.one_line(f"[file {named}]")] if named else ["[file]"]
    return [output.one_line(f"[{kind}]")]


def labels_beside(message: Message) -> list[str]:
    """Return the names of what a message carries beside its content: a spoken reply, images of vendors."""
    beside = {key: value for key, value in message.items() if key != "content"}
    found = [attached.label for attached in found_in(beside)]
    return found or (["[audio]"] if message.get("audio") is not None else [])


@dataclass(frozen=True, slots=True)
class Saved:
    """An attachment that was written to a file."""

    position: int
    number: int
    """1, 2, 3 … in its message."""
    attached: Attached
    path: Path

    @property
    def form(self) -> dict[str, Any]:
        """What `--json` prints of it."""
        return {
            "position": self.position,
            "number": self.number,
            "media_type": self.attached.kind,
            "filename": self.attached.name,
            "bytes": len(self.attached.data),
            "path": str(self.path),
        }


def save(records: Sequence[MessageRecord], folder: Path) -> list[Saved]:
    """Write what is attached to messages into `folder`, byte for byte, as `<position>-<number>.<extension>`.

    A file that is there already stays if it holds the same, and is never written over.

    Raises:
        click.UsageError: another file is in the way, or the folder cannot be written to.
    """
    saved = [
        Saved(record.position, number, attached, folder / f"{record.position}-{number}.{attached.extension}")
        for record in records
        for number, attached in enumerate(found_in(record.message), start=1)
    ]
    try:
        if saved:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for item in saved:
            _write(item.path, item.attached.data)
    except OSError as error:
        raise click.UsageError(f"{error.filename or folder} cannot be written: {error.strerror}.") from None
    return saved


def save_and_print(records: Sequence[MessageRecord], folder: str, *, as_json: bool) -> None:
    """Write what is attached to messages into a folder, and print where it went."""
    saved = save(records, Path(folder))
    if as_json:
        output.write_json([item.form for item in saved], indent=2)
        return
    for item in saved:
        output.answer(str(item.path))
    if not saved:
        output.note("convstore: nothing is attached to these messages")


def _write(path: Path, data: bytes) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.is_symlink() or not path.is_file() or path.read_bytes() != data:
            raise click.UsageError(f"{path} is there already and holds something else; name another folder.") from None
        return
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
    except BaseException:
        path.unlink(missing_ok=True)  # half a file would be in the way of the next try
        raise
