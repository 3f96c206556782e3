"""What a search asks for, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from convstore.errors import InvalidInput
from convstore.values.identifiers import Position, Seq
from convstore.values.results import RatingValue, TurnStatus

if TYPE_CHECKING:
    from convstore.search.query import Query


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A message that a search found, or the title or name of a conversation."""

    conversation: str
    """The id of the conversation."""
    title: str | None
    """The conversation's title."""
    position: Position | None
    """The message's place on its path; None: the title or the name was found."""
    seq: Seq | None
    """The message's number; None: the title or the name was found."""
    role: str | None
    on_path: bool
    """Whether the message is on the current path of the conversation."""
    is_head: bool
    """Whether it is the last message of the current path."""
    status: TurnStatus | None
    """The state of the message's turn; None: it was stored without a turn."""
    snippet: str
    """The passage that matches, on one line."""
    marks: tuple[tuple[int, int], ...]
    """Where the parts of the query stand in the snippet: first character, and the one after the last."""
    created_at: datetime
    """When the message was stored, or the conversation was created."""


@dataclass(frozen=True, slots=True)
class SearchResults:
    """A page of what a search found, newest first, or the best hits."""

    hits: list[SearchHit]
    next: str | None
    """What `before=` takes to get the next page; None: this is the last one."""
    searched_since: datetime | None
    """How far back it looked if it stopped early, because too many texts had to be read; `next` goes on from there, but
    not among the best hits.

    None: it looked at everything.
    """
    is_index_complete: bool
    """False: some messages are not in the index yet and may be missing; `convstore db reindex` adds them."""


@dataclass(frozen=True, slots=True)
class SearchCursor:
    """The text after which a page of results begins."""

    created_us: int
    conversation_id: str
    seq: Seq

    def __str__(self) -> str:
        return f"{self.created_us}:{self.seq}:{self.conversation_id}"


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What a search asks for, checked."""

    query: Query
    limit: int
    before: SearchCursor | None
    conversation_id: str | None
    """Search only this conversation and its shared past; None: all of the owner's."""
    role: str | None
    model: str | None
    since: datetime | None
    until: datetime | None
    tags: tuple[str, ...]
    """The conversation of a hit has all of them."""
    rating: RatingValue | None
    best: bool
    """Whether the most relevant hits come first, and not the newest."""
    archived: bool
    """Whether archived conversations are searched too."""
    deleted: bool
    """Whether deleted conversations are searched too."""


def parse_cursor(text: str | None) -> SearchCursor | None:
    """Return the cursor that a text is, or None for None.

    Raises:
        InvalidInput: the text is no cursor.
    """
    if text is None:
        return None
    try:
        created_us, seq, conversation_id = text.split(":", 2)
        cursor = SearchCursor(int(created_us), conversation_id, Seq(int(seq)))
    except (ValueError, AttributeError):
        cursor = None
    if cursor is None or abs(cursor.created_us) >= 2**58 or not 0 <= cursor.seq < 2**63 or not conversation_id:
        raise InvalidInput(f"{text!r:.80} is not the beginning of a page; take the `next` of the page before")
    return cursor
