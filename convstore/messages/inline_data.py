"""Replace large base64 in a message by a reference to its bytes, and put it back.

A text is taken out only if its bytes, encoded again, give exactly the same characters. So the message that is read is
always the message that was stored. Other base64 stays in the message: with line breaks, in the URL-safe alphabet, or
without padding.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

MIN_BASE64_CHARACTERS = 4096
"""Shorter base64 stays in the message, because a separate row would take more space."""

# An attachment's digest depends on its content alone and must stay unique for ever, so it is longer than a message's.
ATTACHMENT_DIGEST_BYTES = 32

# The part of a data URL before the base64 (RFC 2397). It must be short, because it stays in the message's row.
_DATA_URL_PREFIX = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)

JsonPath: TypeAlias = tuple[str | int, ...]
"""A place inside a JSON object: keys, and indexes of lists."""


@dataclass(frozen=True, slots=True)
class AttachmentReference:
    """A text that was taken out of a JSON object: its place and its parts."""

    path: JsonPath
    prefix: str
    """The text before the base64: a data URL up to its comma, or ""."""
    digest: bytes
    size: int
    """The number of bytes after decoding."""


@dataclass(frozen=True, slots=True)
class DetachedObject:
    """A JSON object and the large base64 that was taken out of it."""

    fields: dict[str, Any]
    """The object, with null where a text was taken out."""
    references: tuple[AttachmentReference, ...]
    blobs: dict[bytes, bytes]
    """The decoded bytes, by digest."""


def detach(fields: dict[str, Any]) -> DetachedObject:
    """Take the large base64 out of a JSON object, at any depth.

    The object itself is not changed.
    """
    references: list[AttachmentReference] = []
    blobs: dict[bytes, bytes] = {}

    def copy_without(value: Any, path: JsonPath) -> Any:
        if isinstance(value, str):
            found = decode_base64(value) if len(value) >= MIN_BASE64_CHARACTERS else None
            if found is None:
                return value
            prefix, data = found
            digest = digest_attachment(data)
            references.append(AttachmentReference(path, prefix, digest, len(data)))
            blobs[digest] = data
            return None
        if isinstance(value, dict):
            return {key: copy_without(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [copy_without(item, (*path, index)) for index, item in enumerate(value)]
        return value

    return DetachedObject({key: copy_without(value, (key,)) for key, value in fields.items()}, tuple(references), blobs)


def decode_base64(text: str, least: int = MIN_BASE64_CHARACTERS) -> tuple[str, bytes] | None:
    """Return the prefix and the bytes of a base64 text or data URL.

    Args:
        least: the smallest number of base64 characters that the text may have.

    Returns:
        None if the text is shorter, or if its bytes, encoded again, would not give the same text.
    """
    start = _DATA_URL_PREFIX.match(text)
    prefix = start[0] if start else ""
    encoded = text[len(prefix) :]
    if len(encoded) < least or len(encoded) % 4:
        return None
    try:
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None
    return (prefix, data) if base64.b64encode(data).decode() == encoded else None


def digest_attachment(data: bytes) -> bytes:
    """Return the digest of an attachment's content, 32 raw bytes."""
    return blake2b(data, digest_size=ATTACHMENT_DIGEST_BYTES).digest()


def to_extra_list(detached: DetachedObject) -> list[Any]:
    """Return the value of the `extra` column for an object with attachments.

    It is a list, while other rows have an object. A release that does not know attachments refuses a list. It would
    accept an object, and read its nulls as content.
    """
    return [
        detached.fields,
        [[list(item.path), item.prefix, item.digest.hex(), item.size] for item in detached.references],
    ]


def from_extra_list(value: list[Any]) -> tuple[dict[str, Any], tuple[AttachmentReference, ...]]:
    """Return the object, with its nulls, and the references that a list holds.

    Raises:
        ValueError: the list does not have the form that `to_extra_list` writes.
    """
    match value:
        case [dict(fields), list(items)]:
            return fields, tuple(_read_reference(item) for item in items)
    raise ValueError(
        "the extra fields of the message must be a JSON object, with a valid list of attachments if it has any"
    )


def _read_reference(item: Any) -> AttachmentReference:
    match item:
        case [list(path), str(prefix), str(digest), int(size)] if path:
            if all(isinstance(step, (str, int)) for step in path) and len(digest) == 2 * ATTACHMENT_DIGEST_BYTES:
                return AttachmentReference(tuple(path), prefix, bytes.fromhex(digest), size)
    raise ValueError("the reference to an attachment cannot be read")


def encode_attachments(blobs: Mapping[bytes, bytes]) -> dict[bytes, str]:
    """Return the base64 of stored attachments, by digest.

    An attachment is left out if its bytes do not match its digest.
    """
    return {
        digest: base64.b64encode(data).decode() for digest, data in blobs.items() if digest_attachment(data) == digest
    }


def attach(
    fields: dict[str, Any], references: tuple[AttachmentReference, ...], texts: Mapping[bytes, str]
) -> dict[str, Any]:
    """Put the texts that `detach` took out back into `fields`, and return `fields`.

    Args:
        texts: base64 by digest, as `encode_attachments` returns it. It may hold attachments that are not needed.

    Raises:
        ValueError: an attachment is missing or damaged, or the message has no part at its place.
    """
    for reference in references:
        text = texts.get(reference.digest)
        if text is None:
            raise ValueError(
                f"its attachment {reference.digest.hex()}, of {reference.size} bytes, is missing or damaged "
                f"in convstore_attachments"
            )
        *parents, last = reference.path
        try:
            inner: Any = fields
            for step in parents:
                inner = inner[step]
            is_empty = inner[last] is None
        except (LookupError, TypeError):
            is_empty = False
        if not is_empty:
            raise ValueError("the message has no part at the position where an attachment belongs")
        inner[last] = reference.prefix + text
    return fields


def iterate_texts(value: Any, path: JsonPath = ()) -> Iterator[tuple[JsonPath, str]]:
    """Yield each text inside a JSON value, with its place."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from iterate_texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from iterate_texts(item, (*path, index))
