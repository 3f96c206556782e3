"""Large base64 taken out of a message, and put back: an image, a sound or a file is kept as bytes, once.

Pure functions over what `messages` writes as JSON. A text is taken out only if its bytes, encoded anew, give the very
same characters: so whatever comes back is what went in. All else (line breaks inside, the URL-safe alphabet, padding
left out) stays where it is.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

LEAST = 4096
"""Characters of base64 from which on it is taken out: a smaller one costs less where it is than a row of its own."""

DIGEST_SIZE = 32
"""Bytes of a digest. It stands for the content alone, for all time: no two may ever share one."""

# What comes before the base64 of a data URL (RFC 2397); short, because it stays in the message's row.
_PREFIX = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)

Path: TypeAlias = tuple[str | int, ...]
"""Where in a JSON object: keys, and places in lists."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A text that was taken out: where it stood, and what it is made of."""

    path: Path
    prefix: str
    """What stood before the base64; of a data URL all up to its comma."""
    digest: bytes
    size: int
    """Of the bytes."""


@dataclass(frozen=True, slots=True)
class Detached:
    """A JSON object without its large base64."""

    fields: dict[str, Any]
    """The object, with null where something was taken out."""
    references: tuple[Reference, ...]
    blobs: dict[bytes, bytes]
    """What was taken out, by digest."""


def detach(fields: dict[str, Any]) -> Detached:
    """Take the large base64 out of a JSON object, wherever in it; the object itself is not changed."""
    references: list[Reference] = []
    blobs: dict[bytes, bytes] = {}

    def emptied(value: Any, path: Path) -> Any:
        if isinstance(value, str):
            found = read(value) if len(value) >= LEAST else None
            if found is None:
                return value
            prefix, data = found
            digest = digest_of(data)
            references.append(Reference(path, prefix, digest, len(data)))
            blobs[digest] = data
            return None
        if isinstance(value, dict):
            return {key: emptied(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [emptied(item, (*path, place)) for place, item in enumerate(value)]
        return value

    return Detached({key: emptied(value, (key,)) for key, value in fields.items()}, tuple(references), blobs)


def read(text: str, least: int = LEAST) -> tuple[str, bytes] | None:
    """Return what a text is made of: its prefix and its bytes, if these give the same text again; else None.

    Args:
        least: how many characters of base64 there must be.
    """
    start = _PREFIX.match(text)
    prefix = start[0] if start else ""
    encoded = text[len(prefix) :]
    if len(encoded) < least or len(encoded) % 4:
        return None
    try:
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None
    return (prefix, data) if base64.b64encode(data).decode() == encoded else None


def digest_of(data: bytes) -> bytes:
    """Return the 32 bytes that stand for `data`."""
    return blake2b(data, digest_size=DIGEST_SIZE).digest()


def to_list(detached: Detached) -> list[Any]:
    """Return what a row holds of an object from which something was taken out.

    A list, where other rows have an object: a release that does not know of attachments refuses it, instead of taking
    the nulls for what was said.
    """
    return [
        detached.fields,
        [[list(item.path), item.prefix, item.digest.hex(), item.size] for item in detached.references],
    ]


def from_list(value: list[Any]) -> tuple[dict[str, Any], tuple[Reference, ...]]:
    """Return the object with its nulls, and what belongs there: what `to_list` wrote.

    Raises:
        ValueError: it is not of that form.
    """
    match value:
        case [dict(fields), list(items)]:
            return fields, tuple(_reference(item) for item in items)
    raise ValueError("its extra fields are not a JSON object, nor one with attachments")


def _reference(item: Any) -> Reference:
    match item:
        case [list(path), str(prefix), str(digest), int(size)] if path:
            if all(isinstance(step, (str, int)) for step in path) and len(digest) == 2 * DIGEST_SIZE:
                return Reference(tuple(path), prefix, bytes.fromhex(digest), size)
    raise ValueError("what it says of an attachment cannot be read")


def written(blobs: Mapping[bytes, bytes]) -> dict[bytes, str]:
    """Return the base64 of what was fetched, by digest; without those whose bytes are no longer what they were."""
    return {digest: base64.b64encode(data).decode() for digest, data in blobs.items() if digest_of(data) == digest}


def attach(fields: dict[str, Any], references: tuple[Reference, ...], texts: Mapping[bytes, str]) -> dict[str, Any]:
    """Put back, into `fields` itself, what `detach` took out.

    Args:
        texts: base64 by digest, as `written` returns it; may hold others.

    Raises:
        ValueError: something is missing or damaged, or its place is not there.
    """
    for reference in references:
        text = texts.get(reference.digest)
        if text is None:
            raise ValueError(
                f"its attachment {reference.digest.hex()}, of {reference.size} bytes, is missing or damaged "
                f"in convstore_attachments"
            )
        *way, last = reference.path
        try:
            inner: Any = fields
            for step in way:
                inner = inner[step]
            is_empty = inner[last] is None
        except (LookupError, TypeError):
            is_empty = False
        if not is_empty:
            raise ValueError("the place of an attachment is not there")
        inner[last] = reference.prefix + text
    return fields


def texts_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield every text inside a JSON value, with its place."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_in(item, (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from texts_in(item, (*path, place))
