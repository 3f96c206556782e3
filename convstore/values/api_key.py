"""A key of the service, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Right(StrEnum):
    """What a key may do."""

    READ = "read"
    """Read the owner's conversations, and the list of models."""
    WRITE = "write"
    """Change the owner's conversations, and ask models."""
    ACT_FOR = "act-for"
    """Do both for other owners: those that begin with the key's prefix."""
    ADMIN = "admin"
    """Read what is about all owners, such as measurements."""


@dataclass(frozen=True, slots=True)
class TurnAllowance:
    """How much an owner may ask of models through the service."""

    max_turns: int | None = None
    """Turns that run at one time; None: any number."""
    max_tokens_a_day: int | None = None
    """Tokens of the turns that began since midnight UTC; None: any number."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of the service, without its secret, which nobody can read again."""

    id: str
    owner: str
    name: str | None
    """A label for people."""
    rights: frozenset[Right]
    acts_for: str | None
    """The beginning of the owners that it may act for; '': all; None: no others."""
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """The last use, as far as it was written: at most once a minute."""
    max_turns: int | None = None
    """Turns that may run at one time for an owner; 0: any number; None: as the service says."""
    max_tokens_a_day: int | None = None
    """Tokens that an owner may use on a day in UTC; 0: any number; None: as the service says."""

    def is_active(self, now: datetime) -> bool:
        """Return True if the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def reaches(self, owner: str) -> bool:
        """Return True if the key may work with this owner's conversations."""
        if owner == self.owner:
            return True
        return Right.ACT_FOR in self.rights and self.acts_for is not None and owner.startswith(self.acts_for)


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key that was just made, with its secret."""

    key: ApiKey
    secret: str
    """What a client sends. It is not stored, and cannot be shown again."""

    def __repr__(self) -> str:
        return f"NewApiKey(key={self.key!r}, secret='…')"


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """What the database says about a secret."""

    key: ApiKey | None
    """The active key with this secret; None: no active key has it."""
    has_keys: bool
    """Whether any key was ever made and is still listed, also a revoked one."""
