"""Test that every error can be pickled, copied and printed."""

from __future__ import annotations

import copy
import pickle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from convstore import AmbiguousReference, ReplyInterrupted, ReplyNotStored, Store, TurnFailed, errors
from convstore.messages.completion import Completion
from convstore.testing import ChatServer, Failure

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ConvstoreError) and kind.__module__ == errors.__name__
]


def make_error(kind: type[errors.ConvstoreError], turn: Any) -> errors.ConvstoreError:
    """Return an error of a kind, with everything that it carries."""
    more: dict[type[errors.ConvstoreError], tuple[Any, ...]] = {
        errors.UnansweredToolCalls: ([{"id": "call_1"}],),
        AmbiguousReference: ([],),
        errors.LeaseLost: (turn,),
        errors.TurnLimitReached: (1.0,),
        errors.PurgeUnfinished: ([], ["busy-one"], ["log"]),
        errors.RedactionUnfinished: ([], ["log"]),
        TurnFailed: (turn,),
        ReplyInterrupted: (turn, {"role": "assistant", "content": "Hal"}),
        ReplyNotStored: (Completion(({"role": "assistant", "content": "Hi"},), "stop"),),
    }
    return kind("what happened", *more.get(kind, ()))


@pytest.fixture
def turn(sqlite_url: str, chat_server: ChatServer) -> Any:
    """Return a failed turn."""
    chat_server.script(Failure(400))
    with Store(sqlite_url, base_url=chat_server.url, model="m") as store, pytest.raises(TurnFailed) as caught:
        store.say(store.new().id, "Hi")
    return caught.value.turn


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_from_a_pickle_and_a_copy_with_what_it_carries(
    kind: type[errors.ConvstoreError], turn: Any
) -> None:
    error = make_error(kind, turn)
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error), copy.copy(error)):
        assert type(other) is kind
        assert str(other) == "what happened"
        assert vars(other) == vars(error)


def ask(place: tuple[str, str]) -> None:
    """Fail in a worker of a pool."""
    url, base_url = place
    with Store(url, base_url=base_url, model="m") as store:
        store.say(store.new().id, "Hi")


def test_an_error_of_a_pools_worker_reaches_its_parent(sqlite_url: str, chat_server: ChatServer) -> None:
    chat_server.script(Failure(400))
    with get_context("spawn").Pool(1) as pool, pytest.raises(TurnFailed) as caught:
        pool.map_async(ask, [(sqlite_url, chat_server.url)]).get(timeout=120)
    assert caught.value.turn.error is not None
    assert caught.value.turn.error["status"] == 400


def test_an_error_with_half_of_a_character_can_be_printed(tmp_path: Path) -> None:
    error = errors.ConvstoreError("half \ud83d of it")
    (tmp_path / "out").write_text(f"{error}", "utf-8")
    assert str(error) == "half \\ud83d of it"
