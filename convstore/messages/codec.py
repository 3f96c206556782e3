"""Encode messages to rows and decode them again, without loss.

This is the only module that knows how a message maps to columns. 95 % of messages are a role and a string, and need no
JSON. Large base64 in the other messages is stored as bytes in separate rows (`inline_data`).

Two things are not stored. The first is the order of a message's own keys, which has no meaning in JSON (RFC 8259); the
order of keys inside its values is stored. The second is whether a character was given as two surrogate halves: it is
stored as the character.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from convstore.messages.inline_data import attach, detach, from_extra_list, to_extra_list
from convstore.messages.message import Message
from convstore.messages.storable_text import is_storable, to_json

# Long enough to name a path uniquely in practice, at a quarter of the size of SHA-512.
MESSAGE_DIGEST_BYTES = 16

_to_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_quote = json.encoder.encode_basestring_ascii


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as its row holds it."""

    role: str
    name: str | None
    content: str | None
    extra: str | None
    """JSON that overrides and completes role, name and content.

    It is an object, or a list that `inline_data.to_extra_list` made.
    """
    blobs: Mapping[bytes, bytes] = field(default_factory=dict)
    """The bytes that `extra` refers to, by digest. Only `encode` fills it."""


def encode(message: Message) -> StoredMessage:
    """Return the row of a message.

    Args:
        message: the exact form.

    Raises:
        InvalidMessage: the message cannot be written as JSON.
    """
    role: str = message["role"]
    content = message.get("content")
    if len(message) == 2 and isinstance(content, str) and is_storable(role) and is_storable(content):
        return StoredMessage(role, None, content, None)
    columns: dict[str, str] = {}
    extra: Message = {}
    for key, value in message.items():
        if key in ("role", "name", "content") and isinstance(value, str) and is_storable(value):
            columns[key] = value
        else:
            extra[key] = value
    detached = detach(extra)
    return StoredMessage(
        role=role if "role" in columns else "",
        name=columns.get("name"),
        content=columns.get("content"),
        extra=to_json(to_extra_list(detached) if detached.references else extra) if extra else None,
        blobs=detached.blobs,
    )


def decode(stored: StoredMessage, texts: Mapping[bytes, str] | None = None) -> Message:
    """Return the exact form of a stored message.

    Args:
        texts: the base64 of attachments by digest, as `inline_data.encode_attachments` returns it. It may hold
            attachments that the message does not need.

    Raises:
        ValueError: the row is damaged, because `extra` does not have the form that `encode` writes; or `texts` lacks an
            attachment.
    """
    message: Message = {"role": stored.role}
    if stored.name is not None:
        message["name"] = stored.name
    if stored.content is not None:
        message["content"] = stored.content
    if stored.extra is not None:
        extra = json.loads(stored.extra)
        if isinstance(extra, list):
            fields, references = from_extra_list(extra)
            extra = attach(fields, references, texts or {})
        if not isinstance(extra, dict):
            raise ValueError("its extra fields are not a JSON object")
        message.update(extra)
    return message


def decode_without_attachments(stored: StoredMessage) -> Message:
    """Return a stored message as `decode` does, with null in the places of its attachments.

    Raises:
        ValueError: the row is damaged.
    """
    extra = json.loads(stored.extra) if stored.extra is not None else {}
    if isinstance(extra, list):
        extra, _ = from_extra_list(extra)
    if not isinstance(extra, dict):
        raise ValueError("its extra fields are not a JSON object")
    columns = {"role": stored.role, "name": stored.name, "content": stored.content}
    return {**{key: value for key, value in columns.items() if value is not None}, **extra}


def find_attachment_digests(stored: StoredMessage) -> set[bytes]:
    """Return the digests of the attachments that a row refers to.

    Raises:
        ValueError: the row is damaged.
    """
    if stored.extra is None or not stored.extra.startswith("["):
        return set()
    return {reference.digest for reference in from_extra_list(json.loads(stored.extra))[1]}


def digest(parent: bytes, message: Message) -> bytes:
    """Return the digest of a message and all messages before it, 16 raw bytes.

    Args:
        parent: the digest of the message before this one on its path; `b""` for the first message.
        message: the exact form.
    """
    role, content = message.get("role"), message.get("content")
    if len(message) == 2 and isinstance(role, str) and isinstance(content, str):
        # What the encoder would return, five times as fast: most messages are like this.
        canonical = f'{{"content":{_quote(content)},"role":{_quote(role)}}}'
    else:
        canonical = _to_canonical(message)
    return blake2b(parent + canonical.encode(), digest_size=MESSAGE_DIGEST_BYTES).digest()
