"""How busy a store is at this moment, for monitoring."""

from __future__ import annotations

from dataclasses import dataclass

from convstore.leases.waiting_lines import LINES
from convstore.store.async_store import AsyncStore


@dataclass(frozen=True, slots=True)
class StoreLoad:
    """How busy a store, and the process that uses it, are."""

    running_turns: int
    waiting_calls: int
    """Calls that wait for a conversation that another turn holds."""
    used_connections: int
    """Connections to the database that work."""
    idle_connections: int


def measure_load(store: AsyncStore) -> StoreLoad:
    """Return how busy a store is. Turns and waiting calls are counted for the whole process."""
    pool = store._engine.transactions.database.engine.pool
    count_used, count_idle = getattr(pool, "checkedout", _count_none), getattr(pool, "checkedin", _count_none)
    return StoreLoad(LINES.count_turns(), LINES.count_waiters(), count_used(), count_idle())


def _count_none() -> int:
    """Return 0: the caller's kind of pool does not count."""
    return 0
