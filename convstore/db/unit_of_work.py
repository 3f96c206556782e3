"""Define a unit of work: a transaction, and the services that database work needs.

The functions that do database work take a `UnitOfWork`, or only its connection, and return plain values.
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
    """The services that the database work of one store needs besides a connection."""

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
