"""How long conversations are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class Retained(StrEnum):
    """The conversations that a rule is about."""

    ALL = "all"
    """All conversations: the time counts from the last change."""
    DELETED = "deleted"
    """Deleted conversations: the time counts from when they were deleted."""


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """How long some conversations of an owner are kept. Nothing is purged until somebody runs the rules."""

    owner: str
    covers: Retained
    keep: timedelta
    set_at: datetime
