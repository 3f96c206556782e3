"""Test finding the forks that share a message."""

from __future__ import annotations

from convstore.db.fork_family import FamilyFork, ForkFamily
from convstore.values.identifiers import Seq, TurnNumber


def make(id: str, origin: str, up_to: int) -> FamilyFork:
    return FamilyFork(id, origin, Seq(up_to), TurnNumber(0))


def test_forks_share_a_message_up_to_where_they_were_made() -> None:
    family = ForkFamily([make("b", "a", 2), make("c", "b", 1), make("d", "a", 0)])
    assert family.list_sharing("a", Seq(1)) == ["a", "b", "c"]
    assert family.list_sharing("a", Seq(2)) == ["a", "b"]
    assert family.list_with_forks(["a"]) == ["a", "b", "d", "c"]
    assert family.list_origins("c") == [("b", Seq(1)), ("a", Seq(1))]
    assert family.list_origins("a") == []


def test_damaged_lineages_that_lead_back_end() -> None:
    family = ForkFamily([make("a", "b", 3), make("b", "a", 3)])
    assert family.list_sharing("a", Seq(1)) == ["a", "b"]
    assert sorted(family.list_with_forks(["a"])) == ["a", "b"]
    assert family.list_origins("a") == [("b", Seq(3)), ("a", Seq(3))]
