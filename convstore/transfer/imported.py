"""What a file of conversations is read into, whatever program wrote it.

A reader of a format yields an `ImportedConversation` for each conversation of a file, and a `Problem` for each that it
cannot read. An application may yield its own to `Store.import_`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    """A message, and the message that it follows."""

    id: str
    """Unique in its conversation, and the same in every later export of it."""
    parent: str | None
    """The id of the message that this one follows; None: it begins a path."""
    message: Mapping[str, Any]
    """The message, in the form of Chat Completions: `{"role": …, "content": …}`."""
    created_at: datetime | None = None
    """With a time zone; None: the file does not say."""
    model: str | None = None
    """The model that wrote it, if it is a reply and the file says so."""


@dataclass(frozen=True, slots=True)
class ImportedConversation:
    """A conversation as a tree of messages; parents come before the messages that follow them."""

    id: str
    """Unique among the conversations of its kind, and the same in every later export of it."""
    messages: Sequence[ImportedMessage]
    head: str | None
    """The id of the last message of the current path; None: the last message."""
    title: str | None = None
    created_at: datetime | None = None
    """With a time zone; None: the file does not say."""
    model: str | None = None
    """The model that the conversation goes on with, if the file says so."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What else the file says of it and is worth keeping: small JSON."""
    notes: Sequence[str] = ()
    """What could not be carried over, in words: one line each."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A conversation, or a part of a file, that cannot be brought in."""

    place: str
    """Where it is: a file, and a line or a number in it."""
    reason: str
    """Why, in one line without a stop."""
