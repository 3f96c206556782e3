"""Conversations in the form of OpenAI's API, and what it lets clients say about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convstore.server.service_errors import ServiceError
from convstore.values.results import Conversation

MAX_PAIRS = 16
MAX_NAME_CHARACTERS = 64
MAX_VALUE_CHARACTERS = 512


def to_conversation_form(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as the API has it: its metadata has texts alone.

    What is no text cannot have come through this API; where an import read the conversation is not for clients.
    """
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": {name: value for name, value in conversation.metadata.items() if isinstance(value, str)},
    }


def to_page_form(conversations: Sequence[Conversation], *, has_more: bool) -> dict[str, Any]:
    """Return a page of a list."""
    return {
        "object": "list",
        "data": [to_conversation_form(one) for one in conversations],
        "first_id": conversations[0].id if conversations else None,
        "last_id": conversations[-1].id if conversations else None,
        "has_more": has_more,
    }


def read_metadata(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a body, checked by the API's rules; none or null is {}.

    Raises:
        ServiceError: 400.
    """
    value = body.get("metadata")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _refuse("metadata must be an object")
    if len(value) > MAX_PAIRS:
        raise _refuse(f"metadata has at most {MAX_PAIRS} pairs")
    for name, text in value.items():
        if len(name) > MAX_NAME_CHARACTERS:
            raise _refuse(f"a name in metadata has at most {MAX_NAME_CHARACTERS} characters")
        if not isinstance(text, str) or len(text) > MAX_VALUE_CHARACTERS:
            raise _refuse(f"a value in metadata is a text of at most {MAX_VALUE_CHARACTERS} characters")
        if not _is_unicode(name + text):
            raise _refuse("metadata has half of a surrogate pair, which is no character")
    return dict(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(text: str) -> ServiceError:
    return ServiceError(400, text, "invalid_value", param="metadata")
