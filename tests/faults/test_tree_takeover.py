"""Test a process that dies while an edit, a completion or a retry streams in: the next call works, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from convstore import ConversationBusy, ConversationNotFound, Store, TurnStatus
from convstore.db.tables import deltas
from convstore.leases import heartbeat
from convstore.testing import ChatServer
from tests.contract.invariants import check_all, engine_of
from tests.faults.clients import open_store
from tests.faults.conftest import Opener
from tests.faults.gates import Held
from tests.faults.windows import check_requests
from tests.processes import Channel, Child, Zygote


@pytest.fixture
def store(opening: Opener) -> Store:
    return opening()


def stream(channel: Channel, *, url: str, base_url: str, id: str, way: str) -> None:
    """Read a reply to its end."""
    heartbeat.FLUSH_SECONDS = 0.01
    store = open_store(url, base_url)
    ways: dict[str, Callable[[], Any]] = {
        "edit": lambda: store.edit_stream(id, 2, "Otherwise"),
        "complete": lambda: store.complete_stream(id),
        "retry": lambda: store.retry_stream(id),
    }
    with ways[way]() as reply:
        list(reply)
    channel.send(["done", reply.text])


def texts(store: Store, id: str) -> list[str]:
    return [message["content"] for message in store.history(id)]


def wait_for_deltas(store: Store, id: str) -> None:
    """Wait until the sent part of a stream is stored."""
    said = ""
    for piece in store.follow(id):
        said += piece
        if said == "Half":
            return
    raise AssertionError(f"the stream ended with {said!r}")


Streaming = Callable[[str, str], tuple[Child, Held]]


@pytest.fixture
def streaming(zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer) -> Streaming:
    """Start a child that streams a reply; half of it is stored."""

    def begin(id: str, way: str) -> tuple[Child, Held]:
        reply = Held(chat_server, "Half of it", pieces=["Half", " of it"], hold_after=1)
        child = zygote.start(stream, url=database_url, base_url=chat_server.url, id=id, way=way)
        reply.wait()
        wait_for_deltas(store, id)
        return child, reply

    return begin


def spoken(store: Store, way: str, *, forked: bool) -> str:
    """Return the id of a conversation with two turns; for `complete` also with a message without a reply."""
    id = store.new(system="Be brief.").id
    for number in range(2):
        store.say(id, f"Question {number}")
    if way == "complete":
        store.append(id, "And?")
    return store.fork(id).id if forked else id


NEXT: dict[str, Callable[[Store, str], object]] = {
    "say": lambda store, id: store.say(id, "Next", wait=0),
    "edit": lambda store, id: store.edit(id, 4, "Next", wait=0),
    "append": lambda store, id: store.append(id, "Next", wait=0),
    "undo": lambda store, id: store.undo(id),
    "checkout": lambda store, id: store.checkout(id, 3),
    "pin": lambda store, id: store.pin(id, 2),
    "fork": lambda store, id: store.fork(id, new_id="another"),
    "compact": lambda store, id: store.compact(id, keep_last=1),
    "delete": lambda store, id: store.delete(id),
}


@pytest.mark.parametrize(
    ("way", "forked", "following"),
    [
        *(("edit", False, following) for following in NEXT),
        ("retry", True, "undo"),
        ("complete", True, "append"),
    ],
)
def test_the_partial_reply_of_a_dead_process_is_off_the_path_and_the_next_call_works_at_once(
    way: str, forked: bool, following: str, store: Store, chat_server: ChatServer, streaming: Streaming
) -> None:
    id = spoken(store, way, forked=forked)
    before = texts(store, id)
    child, reply = streaming(id, way)
    with pytest.raises(ConversationBusy):
        store.undo(id)
    child.kill()
    reply.open()
    NEXT[following](store, id)
    if following == "delete":
        with pytest.raises(ConversationNotFound):
            store.history(id)
        store.restore(id)
    expected = {
        "say": [*before, "Next", "You said: Next"],
        "edit": [*before[:3], "Next", "You said: Next"],
        "append": [*before, "Next"],
        "undo": before[:3],
        "checkout": before[:3],
    }.get(following, before)
    assert texts(store, id) == expected
    assert store.say(id, "At last", wait=0).text == "You said: At last"  # if the call before did not take it over
    (dead,) = [turn for turn in store.turns(id) if turn.status is not TurnStatus.COMPLETED]
    assert (dead.status, dead.text) == (TurnStatus.INTERRUPTED, "Half")
    assert dead.error is not None
    assert dead.error["type"] == "Abandoned"
    assert texts(store, id) == [*expected, "At last", "You said: At last"]
    ids = [conversation.id for conversation in store.list()]
    if following != "pin":
        check_requests(store, chat_server, *ids)
    check_all(engine_of(store))
    with engine_of(store).connect() as connection:
        assert connection.execute(select(deltas)).all() == []


@pytest.mark.parametrize(("way", "forked"), [("edit", False), ("complete", True), ("retry", True)])
def test_a_reply_stopped_from_another_store_stays_in_its_place(
    way: str, forked: bool, store: Store, streaming: Streaming
) -> None:
    id = spoken(store, way, forked=forked)
    before = texts(store, id)
    child, reply = streaming(id, way)
    child.kill()
    assert store.stop(id)
    reply.open()
    stem = {"edit": ["Be brief.", "Otherwise"], "complete": before, "retry": before[:-1]}[way]
    assert texts(store, id) == [*stem, "Half"]
    assert store.say(id, "Next", wait=0).text == "You said: Next"
    check_all(engine_of(store))
