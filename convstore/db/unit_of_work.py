"""A unit of work: a connection in a transaction, with what database work needs besides it.

Database work is plain functions of a `UnitOfWork`, or of its connection alone, that return plain values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from sqlalchemy import Connection

from convstore.messages.token_counters import TokenCounter
from convstore.usage.prices import Prices

IsAlive: TypeAlias = Callable[[str], bool | None]
"""Returns True if the process of a lease token works on its turn, False if not, None if unknown (another host)."""


@dataclass(frozen=True, slots=True)
class Services:
    """What one store's database work needs besides a connection."""

    is_alive: IsAlive
    count_tokens: TokenCounter
    get_prices: Callable[[], Prices]

    def begin(self, connection: Connection) -> UnitOfWork:
        """Return the unit of work of a transaction that has just begun."""
        return UnitOfWork(connection, datetime.now(UTC), self.is_alive, self.count_tokens, self.get_prices)


@dataclass(frozen=True, slots=True)
class UnitOfWork:
    """One transaction, and the services it works with."""

    connection: Connection
    now: datetime
    """When the transaction began, by the host's clock."""
    is_alive: IsAlive
    count_tokens: TokenCounter
    get_prices: Callable[[], Prices]
