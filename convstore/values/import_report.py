"""What an import did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImportProblem:
    """A conversation, or a part of a file, that was not brought in, or not all of it."""

    place: str
    """Where it is: a file, and a line, a number or a conversation in it."""
    reason: str
    is_note: bool
    """True: the conversation was brought in, without this part of it; or it was left out because it was erased here."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did; a dry run, what it would have done."""

    kind: str
    """The kind of the file, such as `chatgpt`."""
    new: int
    """Number of conversations that were created."""
    changed: int
    """Number of conversations that got new messages."""
    unchanged: int
    """Number of conversations that had all of their messages already."""
    deleted: int
    """Number of conversations that were brought in before and deleted here since; they stay deleted."""
    messages: int
    """Number of messages that were added."""
    problems: list[ImportProblem]
    not_indexed: int = 0
    """Number of the added messages that are not in the search index yet: a search or `reindex` adds them."""
    erased: int = 0
    """Number of conversations that were purged here, or redacted, and were left out; `again` brings them in."""
