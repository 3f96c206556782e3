"""Test that no owner sees or changes another owner's conversations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from convstore import ConversationNotFound, InvalidInput, Store
from tests.contract.conftest import ON_ALL_BACKENDS, Backend


@ON_ALL_BACKENDS
def test_no_method_shows_the_conversations_of_another_owner(store: Store) -> None:
    ann, bob = store.for_owner("ann"), store.for_owner("bob")
    made = ann.new("secret", id="diary", name="work", system="Be nice.")
    turn = ann.say(made.id, "hello")
    for stranger in (bob, store, store.for_owner("an"), store.for_owner("ANN"), store.for_owner("ann ")):
        calls: list[Callable[[], object]] = [
            partial(stranger.get, "diary"),
            partial(stranger.get, "dia"),
            partial(stranger.get, "work"),
            partial(stranger.say, "diary", "hi"),
            partial(_read_stream, stranger, "diary"),
            partial(stranger.append, "diary", "hi"),
            partial(stranger.history, "diary"),
            partial(stranger.messages, "diary"),
            partial(stranger.messages, "diary", before=2),
            partial(stranger.turns, "diary"),
            partial(stranger.unanswered, "diary"),
            partial(stranger.set, "diary", title="stolen"),
            partial(stranger.preview, "diary", "hi"),
        ]
        for call in calls:
            with pytest.raises(ConversationNotFound):
                call()
        assert stranger.list(limit=None) == []
        assert stranger.input_of(turn) == []
    assert [found.title for found in ann.list()] == ["secret"]
    assert len(ann.history("diary")) == 3


def _read_stream(store: Store, id: str) -> list[str]:
    with store.stream(id, "hi") as reply:
        return list(reply)


def test_two_owners_can_use_the_same_id_and_name(store: Store) -> None:
    ann, bob = store.for_owner("ann"), store.for_owner("bob")
    for owner in (ann, bob, store):
        made = owner.new(f"of {owner.owner}", id="diary", name="work", system=owner.owner or "nobody")
        assert made.owner == owner.owner
    assert ann.say("diary", "1").text == "You said: 1"
    bob.append("diary", "2")
    bob.set("diary", title="changed", temperature=1)
    assert [message["content"] for message in ann.history("diary")] == ["ann", "1", "You said: 1"]
    assert [message["content"] for message in bob.history("diary")] == ["bob", "2"]
    assert [message["content"] for message in store.history("diary")] == ["nobody"]
    assert (ann.get("work").title, ann.get("work").settings) == ("of ann", {})
    assert [turn.seq for turn in ann.turns("diary")] == [1]
    assert bob.turns("diary") == []


def test_a_running_turn_of_one_owner_does_not_block_another_owner(store: Store) -> None:
    ann, bob = store.for_owner("ann"), store.for_owner("bob")
    for owner in (ann, bob):
        owner.new(id="diary")
    with ann.stream("diary", "slowly") as reply:
        next(reply)
        assert bob.say("diary", "at once", wait=0).text == "You said: at once"


def test_the_default_owner_is_the_empty_text(store: Store) -> None:
    assert store.owner == ""
    assert store.new(id="x").owner == ""
    assert store.for_owner("ann").for_owner("").get("x").owner == ""
    assert store.for_owner("ann").owner == "ann"


def test_a_store_can_be_opened_for_an_owner(backend: Backend) -> None:
    store = backend.open(owner="ann")
    store.new(id="x")
    assert store.for_owner("ann").get("x").owner == "ann"
    assert store.for_owner("").list() == []


def test_an_owner_may_be_any_printable_text(store: Store) -> None:
    for owner in ("a b", "会員", "user@example.org", "'--", "%", "🦊", "o" * 255):
        view = store.for_owner(owner)
        view.new(id="x", name="n")
        assert [found.owner for found in view.list()] == [owner]


def test_an_invalid_owner_is_refused(store: Store, backend: Backend) -> None:
    for owner in ("a\0", "\n", "\ud800", "o" * 256):
        with pytest.raises(InvalidInput, match="an owner is"):
            store.for_owner(owner)
        with pytest.raises(InvalidInput, match="an owner is"):
            backend.open(owner=owner)
