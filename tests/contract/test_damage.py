"""Rows that cannot be decoded: never skipped, never replaced by something empty."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from convstore import DamagedRow, Store
from convstore.testing import ChatServer
from tests.contract.conftest import STORES_OWN, Backend

pytestmark = pytest.mark.parametrize("backend", STORES_OWN, indirect=True)

MESSAGE = "UPDATE convstore_messages SET {} WHERE conversation_id = :id AND seq = :seq"
MISSING = "DELETE FROM convstore_messages WHERE conversation_id = :id AND seq = :seq"
CONVERSATION = "UPDATE convstore_conversations SET {} WHERE id = :id"
TURN = "UPDATE convstore_turns SET {} WHERE conversation_id = :id AND seq = 1"


@pytest.fixture
def id(store: Store) -> str:
    """A conversation of five messages: seq 1 to 5, the last two of turn 2."""
    store.new(id="victim", system="s")
    store.say("victim", "one")
    store.say("victim", "two")
    return "victim"


def readers(store: Store, id: str) -> list[Callable[[], object]]:
    """Whatever reads the whole path."""
    return [
        partial(store.history, id),
        partial(store.history, id, exact=True),
        partial(store.messages, id),
        partial(store.messages, id, limit=3),
        partial(store.messages, id, before=4, limit=1),
        partial(store.say, id, "hi"),
        partial(_enter, store, id),
        partial(store.preview, id, "hi"),
    ]


def _enter(store: Store, id: str) -> None:
    with store.stream(id, "hi"):
        pass


@pytest.mark.parametrize(
    "damage",
    [
        MESSAGE.format("extra = '{not json'"),
        MESSAGE.format("extra = ''"),
        MESSAGE.format("extra = '[1]'"),
        MESSAGE.format("extra = 'null'"),
        MESSAGE.format("extra = '\"text\"'"),
        MISSING,
    ],
    ids=["not json", "empty", "a list", "null", "a text", "missing"],
)
def test_a_damaged_message_is_named_by_whatever_reads_it(
    store: Store, backend: Backend, chat_server: ChatServer, id: str, damage: str
) -> None:
    asked = len(chat_server.requests)
    backend.damage(damage, id=id, seq=3)
    for read in readers(store, id):
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


def test_a_missing_last_message_is_no_empty_history(store: Store, backend: Backend, id: str) -> None:
    backend.damage(MISSING, id=id, seq=5)
    for read in (
        partial(store.history, id),
        partial(store.history, id, limit=1),
        partial(store.say, id, "hi"),
        partial(store.say, id, "hi", history=False),
        partial(store.append, id, "hi"),
    ):
        with pytest.raises(DamagedRow, match=f"{id}.* seq 5"):
            read()


def test_a_question_that_is_missing_is_not_asked_again(
    store: Store, backend: Backend, chat_server: ChatServer, id: str
) -> None:
    (turn,) = store.turns(id, limit=1)
    backend.damage(MISSING, id=id, seq=4)
    with pytest.raises(DamagedRow, match=f"{id}.* seq 4 "):
        store.retry(id)
    assert store.input_of(turn) == []
    assert len(chat_server.requests) == 2


def test_half_a_question_is_none(store: Store, backend: Backend, chat_server: ChatServer, id: str) -> None:
    turn = store.say(id, [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}])
    backend.damage(MISSING, id=id, seq=6)
    for read in (partial(store.input_of, turn), partial(store.retry, id)):
        with pytest.raises(DamagedRow, match=f"{id}.* seq 6 "):
            read()
    assert len(chat_server.requests) == 3


def test_a_missing_root_is_no_shorter_history(store: Store, backend: Backend, id: str) -> None:
    backend.damage(MISSING, id=id, seq=1)
    for read in (partial(store.history, id), partial(store.messages, id, limit=5), partial(store.say, id, "hi")):
        with pytest.raises(DamagedRow, match=f"{id}.* seq 1 "):
            read()
    assert len(store.history(id, limit=4)) == 4


@pytest.mark.parametrize("column", ["settings", "metadata", "title"])
@pytest.mark.parametrize("value", ["{not json", "[1]", ""])
def test_damaged_settings_metadata_and_titles_are_named_and_never_taken_for_empty_ones(
    store: Store, backend: Backend, id: str, column: str, value: str
) -> None:
    if column == "title":
        value = '"' + value  # what begins with a quotation mark is JSON
    backend.damage(CONVERSATION.format(f"{column} = :value"), id=id, value=value)
    for read in (partial(store.get, id), store.list, partial(store.set, id, seed=1), partial(store.get, "vict")):
        with pytest.raises(DamagedRow, match=id):
            read()
    if column == "settings":
        for ask in (partial(store.say, id, "hi"), partial(_enter, store, id), partial(store.preview, id, "hi")):
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
def test_a_damaged_turn_is_named(store: Store, backend: Backend, id: str, change: str) -> None:
    backend.damage(TURN.format(change), id=id)
    with pytest.raises(DamagedRow, match=f"{id}.*turn 1 "):
        store.turns(id)
    assert len(store.turns(id, limit=1)) == 1
    assert len(store.history(id)) == 5


def test_a_damaged_conversation_does_not_hide_the_others(store: Store, backend: Backend, id: str) -> None:
    whole = store.new("whole")
    backend.damage(CONVERSATION.format("settings = 'x'"), id=id)
    assert store.get(whole.id) == whole
    assert store.list(limit=1) == [whole]
    with pytest.raises(DamagedRow, match=id):
        store.list()
