"""Which conversations a list has, and where its page begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

from convstore.errors import InvalidInput
from convstore.values.results import Conversation


class Drawer(Enum):
    """Where a conversation is kept."""

    LISTED = "listed"
    ARCHIVED = "archived"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Which conversations a list has; each value that is given narrows it."""

    drawer: Drawer = Drawer.LISTED
    text: str | None = None
    """It is in the title or the name, with case, accents and width folded."""
    since: datetime | None = None
    """The latest activity was then, or later."""
    until: datetime | None = None
    """The latest activity was earlier."""
    model: str | None = None
    """The model that the list shows."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Values of metadata, each as a text."""
    source: str | None = None
    """The kind of the file that the conversation was imported from."""
    tags: frozenset[str] = frozenset()
    """All of them."""


@dataclass(frozen=True, slots=True)
class ListCursor:
    """The conversation after which a page of a list begins."""

    updated_at: datetime
    id: str


def parse_list_cursor(before: Conversation | str | None) -> ListCursor | None:
    """Return the place of a conversation in the list, or the one that a cursor is; None: the beginning.

    Raises:
        InvalidInput: the text is no cursor.
    """
    if before is None or isinstance(before, Conversation):
        return ListCursor(before.updated_at, before.id) if before is not None else None
    try:
        moment, _, id = before.partition("/")
        updated_at = datetime.fromisoformat(moment).astimezone(UTC)
    except (ValueError, OverflowError, AttributeError):
        updated_at, id = None, ""
    if updated_at is None or not id:
        raise InvalidInput(f"{before!r:.80} is not the beginning of a page; take the `cursor` of a conversation")
    return ListCursor(updated_at, id)
