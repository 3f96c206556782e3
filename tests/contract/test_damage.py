"""Test that a damaged row raises an error and is never skipped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from convstore import ConvstoreError, DamagedRow, Store
from convstore.testing import ChatServer
from tests.contract.conftest import OWN_ENGINE_KINDS, Backend

pytestmark = pytest.mark.parametrize("backend", OWN_ENGINE_KINDS, indirect=True)

UPDATE_MESSAGE = "UPDATE convstore_messages SET {} WHERE conversation_id = :id AND seq = :seq"
DELETE_MESSAGE = "DELETE FROM convstore_messages WHERE conversation_id = :id AND seq = :seq"
UPDATE_CONVERSATION = "UPDATE convstore_conversations SET {} WHERE id = :id"
UPDATE_TURN = "UPDATE convstore_turns SET {} WHERE conversation_id = :id AND seq = 1"


@pytest.fixture
def id(store: Store) -> str:
    """Return the id of a conversation with `seq` 1 to 5. Turn 2 stored the last two."""
    store.new(id="victim", system="s")
    store.say("victim", "one")
    store.say("victim", "two")
    return "victim"


def list_readers(store: Store, id: str) -> list[Callable[[], object]]:
    """Return every operation that reads the damaged message."""
    return [
        partial(store.history, id),
        partial(store.history, id, exact=True),
        partial(store.messages, id),
        partial(store.messages, id, limit=3),
        partial(store.messages, id, before=4, limit=1),
        partial(store.history, id, max_bytes=10**9),
        partial(store.messages, id, max_bytes=10**9),
        partial(store.say, id, "hi"),
        partial(_open_stream, store, id),
        partial(store.preview, id, "hi"),
    ]


def _open_stream(store: Store, id: str) -> None:
    with store.stream(id, "hi"):
        pass


@pytest.mark.parametrize(
    "damage",
    [
        UPDATE_MESSAGE.format("extra = '{not json'"),
        UPDATE_MESSAGE.format("extra = ''"),
        UPDATE_MESSAGE.format("extra = '[1]'"),
        UPDATE_MESSAGE.format("extra = 'null'"),
        UPDATE_MESSAGE.format("extra = '\"text\"'"),
        UPDATE_MESSAGE.format("content = 'You said: two'"),
        UPDATE_MESSAGE.format("content = NULL"),
        UPDATE_MESSAGE.format("role = 'user'"),
        UPDATE_MESSAGE.format("name = 'Eve'"),
        UPDATE_MESSAGE.format("extra = '{\"refusal\": null}'"),
    ],
    ids=["not json", "empty", "a list", "null", "a text", "content", "no content", "role", "name", "extra"],
)
def test_every_method_that_reads_a_damaged_message_names_it(
    store: Store, backend: Backend, chat_server: ChatServer, id: str, damage: str
) -> None:
    asked = len(chat_server.requests)
    backend.damage(damage, id=id, seq=3)
    for read in list_readers(store, id):
        with pytest.raises(DamagedRow, match=f"{id}.* seq 3 ") as caught:
            read()
        assert "\n" not in str(caught.value)
        assert "backup" in str(caught.value)
    assert len(chat_server.requests) == asked
    with pytest.raises(DamagedRow, match=f"{id}.* seq 3 "):
        store.turns(id)
    assert len(store.turns(id, limit=1)) == 1
    assert [message["content"] for message in store.history(id, limit=2)] == ["two", "You said: two"]
    assert store.get(id).length == 5


def test_every_method_that_reads_a_missing_message_or_the_next_one_names_it(
    store: Store, backend: Backend, chat_server: ChatServer, id: str
) -> None:
    asked = len(chat_server.requests)
    backend.damage(DELETE_MESSAGE, id=id, seq=3)
    readers: list[Callable[[], object]] = [
        *list_readers(store, id),
        partial(store.turns, id),
        partial(store.history, id, limit=2),
    ]
    for read in readers:
        with pytest.raises(DamagedRow, match=f"{id}.* seq 3 is missing"):
            read()
    assert len(chat_server.requests) == asked
    assert len(store.turns(id, limit=1)) == 1
    assert [message["content"] for message in store.history(id, limit=1)] == ["You said: two"]


def test_a_message_does_not_fit_a_changed_digest_of_the_message_before_it(
    store: Store, backend: Backend, chat_server: ChatServer, id: str
) -> None:
    asked = len(chat_server.requests)
    backend.damage(UPDATE_MESSAGE.format("digest = :digest"), id=id, seq=3, digest=b"\x01" * 16)
    for read in (
        partial(store.history, id, limit=2),  # the page begins after the damaged row
        partial(store.say, id, "hi", last=1),
        partial(store.preview, id, "hi", last=1),
        partial(store.tree, id),
        partial(store.at, id, 4),
    ):
        with pytest.raises(DamagedRow, match=f"{id}.* seq [34] does not fit its digest"):
            read()
    assert store.history(id, limit=1)[0]["content"] == "You said: two"
    assert len(chat_server.requests) == asked


@pytest.mark.parametrize("seq", [1, 2])
def test_a_changed_message_that_is_always_sent_is_found(
    store: Store, backend: Backend, chat_server: ChatServer, id: str, seq: int
) -> None:
    store.pin(id, 2)
    asked = len(chat_server.requests)
    backend.damage(UPDATE_MESSAGE.format("content = 'changed'"), id=id, seq=seq)
    for ask in (partial(store.say, id, "hi", last=1), partial(store.preview, id, "hi", max_context=60)):
        with pytest.raises(DamagedRow, match=f"{id}.* seq {seq} does not fit its digest"):
            ask()
    assert len(chat_server.requests) == asked


def test_a_fork_checks_its_shared_past(store: Store, backend: Backend, id: str) -> None:
    fork = store.fork(id, at=4).id
    store.append(fork, "three")
    assert store.at(fork, 5).message["content"] == "three"
    backend.damage(UPDATE_MESSAGE.format("digest = :digest"), id=id, seq=4, digest=b"\x01" * 16)
    for read in (partial(store.at, fork, 5), partial(store.history, fork, limit=1), partial(store.tree, fork)):
        with pytest.raises(DamagedRow, match=f"{fork}.* seq [45] does not fit its digest"):
            read()


def test_a_stored_answer_to_a_used_key_is_checked(store: Store, backend: Backend, chat_server: ChatServer) -> None:
    store.new(id="once")
    store.say("once", "pay", idempotency_key="k")
    backend.damage(UPDATE_MESSAGE.format("content = 'pay 900'"), id="once", seq=2)
    for read in (partial(store.say, "once", "pay", idempotency_key="k"), partial(store.turns, "once")):
        with pytest.raises(DamagedRow, match=r"once.* seq 2 does not fit its digest"):
            read()
    assert len(chat_server.requests) == 1


@pytest.mark.parametrize("column", ["parent_seq", "context_seq"])
def test_a_message_that_is_its_own_ancestor_is_named_and_every_call_ends(
    store: Store, backend: Backend, id: str, column: str
) -> None:
    before = store.history(id)
    backend.damage(UPDATE_MESSAGE.format(f"{column} = seq"), id=id, seq=3)
    for read in (
        partial(store.history, id, limit=9),
        partial(store.history, id, max_bytes=10**9),
        partial(store.messages, id),
        partial(store.messages, id, max_bytes=10**9),
        partial(store.say, id, "hi"),
    ):
        with pytest.raises(DamagedRow, match="message seq 3 is its own ancestor"):
            read()
    if column == "parent_seq":
        with pytest.raises(DamagedRow, match="seq 3 is its own ancestor"):
            store.history(id)
    else:  # what the whole history does not need, it does not read
        assert store.history(id) == before
    for move in (partial(store.undo, id), partial(store.at, id, 1), partial(store.fork, id, at=1)):
        with suppress(ConvstoreError):
            move()


def test_a_missing_last_message_raises_damaged_row(store: Store, backend: Backend, id: str) -> None:
    backend.damage(DELETE_MESSAGE, id=id, seq=5)
    for read in (
        partial(store.history, id),
        partial(store.history, id, limit=1),
        partial(store.say, id, "hi"),
        partial(store.say, id, "hi", history=False),
        partial(store.append, id, "hi"),
    ):
        with pytest.raises(DamagedRow, match=f"{id}.* seq 5"):
            read()


def test_retry_refuses_a_turn_with_a_missing_input(
    store: Store, backend: Backend, chat_server: ChatServer, id: str
) -> None:
    (turn,) = store.turns(id, limit=1)
    backend.damage(DELETE_MESSAGE, id=id, seq=4)
    with pytest.raises(DamagedRow, match=f"{id}.* seq 4 "):
        store.retry(id)
    assert store.input_of(turn) == []
    assert len(chat_server.requests) == 2


def test_an_input_with_a_missing_message_raises_damaged_row(
    store: Store, backend: Backend, chat_server: ChatServer, id: str
) -> None:
    turn = store.say(id, [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}])
    backend.damage(DELETE_MESSAGE, id=id, seq=6)
    for read in (partial(store.input_of, turn), partial(store.retry, id)):
        with pytest.raises(DamagedRow, match=f"{id}.* seq 6 "):
            read()
    assert len(chat_server.requests) == 3


def test_a_missing_first_message_raises_damaged_row(store: Store, backend: Backend, id: str) -> None:
    backend.damage(DELETE_MESSAGE, id=id, seq=1)
    for read in (partial(store.history, id), partial(store.messages, id, limit=5), partial(store.say, id, "hi")):
        with pytest.raises(DamagedRow, match=f"{id}.* seq 1 "):
            read()
    assert len(store.history(id, limit=3)) == 3


@pytest.mark.parametrize("column", ["settings", "metadata", "title"])
@pytest.mark.parametrize("value", ["{not json", "[1]", ""])
def test_damaged_settings_metadata_or_titles_raise_an_error_that_names_the_conversation(
    store: Store, backend: Backend, id: str, column: str, value: str
) -> None:
    if column == "title":
        value = '"' + value  # a text that begins with a quotation mark is read as JSON
    backend.damage(UPDATE_CONVERSATION.format(f"{column} = :value"), id=id, value=value)
    for read in (partial(store.get, id), store.list, partial(store.set, id, seed=1), partial(store.get, "vict")):
        with pytest.raises(DamagedRow, match=id):
            read()
    if column == "settings":
        for ask in (partial(store.say, id, "hi"), partial(_open_stream, store, id), partial(store.preview, id, "hi")):
            with pytest.raises(DamagedRow, match=id):
                ask()
    assert len(store.history(id)) == 5
    assert len(store.turns(id)) == 2


@pytest.mark.parametrize(
    "change",
    [
        "request = '{not json'",
        "request = '[1]'",
        "\"window\" = '{not json'",
        "usage = '{not json'",
        "usage = '[1]'",
        "error = '{not json'",
        "status = 'unheard of'",
        "model = '\"broken'",
    ],
)
def test_a_damaged_turn_raises_an_error_that_names_it(store: Store, backend: Backend, id: str, change: str) -> None:
    backend.damage(UPDATE_TURN.format(change), id=id)
    with pytest.raises(DamagedRow, match=f"{id}.*turn 1 "):
        store.turns(id)
    assert len(store.turns(id, limit=1)) == 1
    assert len(store.history(id)) == 5


def test_a_damaged_conversation_does_not_hide_the_others(store: Store, backend: Backend, id: str) -> None:
    whole = store.new("whole")
    backend.damage(UPDATE_CONVERSATION.format("settings = 'x'"), id=id)
    assert store.get(whole.id) == whole
    assert store.list(limit=1) == [whole]
    with pytest.raises(DamagedRow, match=id):
        store.list()
