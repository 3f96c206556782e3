"""What `db verify` found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class SearchIndexCheck:
    """What was checked of the search index. Texts are messages, and titles with names."""

    waiting: int = 0
    """How many messages will be added by the next searches."""
    missing: int = 0
    """How many texts the index does not have, and does not wait for."""
    without_text: int = 0
    """How many documents of the index have no text any more."""
    sampled: int = 0
    """How many texts were looked up in the index to compare their terms."""
    compared: int = 0
    """How many of these the index has."""
    incomplete: int = 0
    """How many of these do not have all their terms in it."""
    problem: str | None = None
    """What SQLite says about its full-text table, if it is damaged."""

    @property
    def is_complete(self) -> bool:
        """Whether a search finds everything, and the index has nothing else."""
        return not (self.missing or self.without_text or self.incomplete or self.problem)


@dataclass(slots=True)
class Verification:
    """What was checked, and what is damaged."""

    conversations: int = 0
    messages: int = 0
    turns: int = 0
    attachments: int = 0
    damages: list[Damage] = field(default_factory=list)
    search_index: SearchIndexCheck = field(default_factory=SearchIndexCheck)


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged row."""

    owner: str
    conversation_id: str | None
    """None: the row does not belong to a conversation."""
    problem: str
