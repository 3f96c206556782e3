"""Make ids for what a file gives none, the same in every later version of the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from convstore.transfer.imported import ImportedMessage

_DIGEST_BYTES = 16


def derive_id(parent: str | None, message: Mapping[str, Any]) -> str:
    """Return the id of a message: a digest of it and of all messages before it."""
    data = f"{parent or ''}\n".encode("utf-8", "surrogatepass") + _encode(message)
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def derive_conversation_id(key: int | str, messages: Sequence[ImportedMessage]) -> str:
    """Return the id of a conversation: a digest of how it begins, and of its number or name in the file.

    It begins with all messages up to the first reply, and the reply's id is a digest of them: a later version of the
    file may hold more after it, and many conversations of a file can have the same first message, a system prompt.
    """
    opening = next((message for message in messages if message.message["role"] == "assistant"), messages[-1])
    digest = hashlib.blake2b(str(key).encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
    digest.update(b"\n" + opening.id.encode())
    return digest.hexdigest()


_encode_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _encode(message: Mapping[str, Any]) -> bytes:
    content = message.get("content")
    if len(message) == 2 and type(content) is str:  # most messages: the encoder would take longer than all the rest
        return f"{message['role']}\n{content}".encode("utf-8", "surrogatepass")
    return _encode_json(message).encode()


class DerivedTree:
    """The messages of a conversation, if the file has no ids for them."""

    def __init__(self) -> None:
        self._messages: dict[str, ImportedMessage] = {}

    def add(
        self,
        parent: str | None,
        message: Mapping[str, Any],
        created_at: datetime | None = None,
        model: str | None = None,
    ) -> str:
        """Add a message after its parent and return its id; an equal message at the same place is the same."""
        id = derive_id(parent, message)
        self._messages.setdefault(id, ImportedMessage(id, parent, message, created_at, model))
        return id

    def __contains__(self, id: str) -> bool:
        return id in self._messages

    def __getitem__(self, id: str) -> ImportedMessage:
        return self._messages[id]

    def list_messages(self) -> list[ImportedMessage]:
        """Return the messages; parents come first."""
        return list(self._messages.values())
