"""What an export did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExportProblem:
    """A conversation that was not written, or not all of it."""

    conversation: str
    """Its id."""
    reason: str
    is_note: bool
    """True: it was written, without this part of it."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did."""

    format: str
    conversations: int
    """Number of conversations that were written."""
    messages: int
    """Number of their messages, those off the current path too if they were written."""
    files: list[str]
    """The files that were written; empty for a stream."""
    problems: list[ExportProblem]
