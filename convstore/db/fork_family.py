"""Find the forks that share a message: directly, or as forks of a fork."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import bindparam, select

from convstore.db.connection import Connection
from convstore.db.fork_sharing import read_nearest_origin
from convstore.db.tables import conversations
from convstore.values.identifiers import ConversationKey, Seq, TurnNumber

_FORKS = select(conversations.c.id, conversations.c.lineage).where(
    conversations.c.owner == bindparam("owner"), conversations.c.lineage.is_not(None)
)


@dataclass(frozen=True, slots=True)
class FamilyFork:
    """A fork, and how much it shares with the conversation that it was forked from."""

    id: str
    origin: str
    up_to_seq: Seq
    up_to_turn: TurnNumber


class ForkFamily:
    """All forks of an owner, deleted and archived ones too."""

    def __init__(self, forks: Collection[FamilyFork]) -> None:
        self._forks = {fork.id: fork for fork in forks}
        self._of_origin: dict[str, list[FamilyFork]] = {}
        for fork in forks:
            self._of_origin.setdefault(fork.origin, []).append(fork)

    def find(self, id: str) -> FamilyFork | None:
        """Return a conversation as a fork; None: it is not one."""
        return self._forks.get(id)

    def list_sharing(self, home: str, seq: Seq) -> list[str]:
        """Return the conversations that have message `seq` of `home`: itself, and forks, origins first."""
        found, seen = [home], {home}
        for id in found:  # it grows
            # A damaged lineage may lead back.
            new = [fork.id for fork in self._of_origin.get(id, ()) if seq <= fork.up_to_seq and fork.id not in seen]
            found += new
            seen.update(new)
        return found

    def list_origins(self, id: str) -> list[tuple[str, Seq]]:
        """Return the conversations that keep the past of a fork, nearest first, each with the last shared message."""
        found: dict[str, Seq] = {}
        limit: Seq | None = None
        while (fork := self._forks.get(id)) is not None and fork.origin not in found:  # a damaged lineage may lead back
            limit = fork.up_to_seq if limit is None else min(limit, fork.up_to_seq)
            id = fork.origin
            found[id] = limit
        return list(found.items())

    def list_with_forks(self, ids: Collection[str]) -> list[str]:
        """Return conversations and all forks of them, each after the one that it was forked from."""
        depths = {id: self._count_origins(id) for id in ids}
        found = list(ids)
        for id in found:  # it grows
            for fork in self._of_origin.get(id, ()):
                if fork.id not in depths:
                    depths[fork.id] = depths[id] + 1
                    found.append(fork.id)
        return sorted(found, key=lambda id: (depths[id], id))

    def _count_origins(self, id: str) -> int:
        known: set[str] = set()
        while id in self._forks and id not in known:  # a damaged lineage may lead back
            known.add(id)
            id = self._forks[id].origin
        return len(known)


def read_family(connection: Connection, owner: str) -> ForkFamily:
    """Return the forks of an owner.

    Raises:
        DamagedRow: a lineage cannot be decoded.
    """
    found = []
    for row in connection.execute(_FORKS, {"owner": owner}):
        origin = read_nearest_origin(ConversationKey(owner, row.id), row.lineage)
        if origin is not None:
            found.append(FamilyFork(row.id, origin.conversation_id, origin.up_to_seq, origin.up_to_turn))
    return ForkFamily(found)


def group_by_conversation(places: Collection[tuple[str, Seq]]) -> Mapping[str, set[Seq]]:
    """Return messages by the conversation that keeps them."""
    found: dict[str, set[Seq]] = {}
    for id, seq in places:
        found.setdefault(id, set()).add(seq)
    return found
