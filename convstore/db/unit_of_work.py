"""Define a unit of work: a transaction, and the services that database work needs.

The functions that do database work take a `UnitOfWork`, or only its connection, and return plain values.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from convstore.db.connection import Connection

if TYPE_CHECKING:
    from convstore.messages.token_counters import TokenCounter
    from convstore.usage.prices import Prices

IsAlive: TypeAlias = Callable[[str], bool | None]
"""Returns True if the process of a lease token works on its turn, False if not, None if unknown (another host)."""


@dataclass(frozen=True, slots=True)
class Services:
    """The services that the database work of one store needs besides a connection."""

    is_alive: IsAlive
    lease_seconds: float
    """How long a lease of this store lasts if it is not renewed."""
    count_tokens: TokenCounter
    get_prices: Callable[[], Prices]

    def begin(self, connection: Connection) -> UnitOfWork:
        """Return the unit of work of a transaction that has just begun."""
        return UnitOfWork(
            connection=connection,
            now=datetime.now(UTC),
            began=time.monotonic(),
            is_alive=self.is_alive,
            lease_seconds=self.lease_seconds,
            count_tokens=self.count_tokens,
            get_prices=self.get_prices,
        )


@dataclass(frozen=True, slots=True)
class UnitOfWork:
    """One transaction, and the services it works with."""

    connection: Connection
    now: datetime
    """When the transaction began, by the host's clock."""
    began: float
    """When the transaction began, by `time.monotonic`."""
    is_alive: IsAlive
    lease_seconds: float
    """How long a lease of this store lasts if it is not renewed."""
    count_tokens: TokenCounter
    get_prices: Callable[[], Prices]
