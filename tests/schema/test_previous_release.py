"""Test that this release reads what programs of the previous release write after the upgrade.

`release_0002` writes what that release writes. In its rows, later columns are NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import NoResultFound

from convstore import Store, TurnStatus
from convstore.errors import InvalidInput
from convstore.leases import takeover
from convstore.testing import ChatServer
from tests.contract.invariants import check_all, engine_of
from tests.schema import release_0002 as old

Message = dict[str, Any]
Writes = Callable[..., Any]


@pytest.fixture
def store(database_url: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with Store(database_url, base_url=chat_server.url, owner="ada", model="test-model") as store:
        yield store
        check_all(engine_of(store))


def by_old(store: Store, work: Writes, *args: Any, **kwargs: Any) -> Any:
    """Run a function of the previous release in its own transaction."""
    store.list(limit=1)  # it creates the schema
    with store._engine.transactions.database.write() as connection:
        return work(connection.plain, "ada", *args, **kwargs)


def said(*texts: str) -> list[Message]:
    return [{"role": "assistant" if place % 2 else "user", "content": each} for place, each in enumerate(texts)]


def replied(text: str) -> Message:
    return {"role": "assistant", "content": text, "refusal": None}


def mixed(store: Store, chat_server: ChatServer) -> list[Message]:
    """Make a long conversation, `mixed`, written by both releases in turn; return its path."""
    path: list[Message] = [{"role": "system", "content": "Be brief."}, *said(*(f"first {n}" for n in range(1100)))]
    store.new(id="mixed", messages=path)
    for number in range(8):
        by_old(store, old.say, "mixed", f"old {number}", f"answer {number}")
        path += [{"role": "user", "content": f"old {number}"}, replied(f"answer {number}")]
        by_old(store, old.say, "mixed", "fails", None)
        turn = store.say("mixed", f"new {number}", last=2)
        assert chat_server.requests[-1].body["messages"][-3:] == [
            {"role": "user", "content": f"old {number}"},
            {"role": "assistant", "content": f"answer {number}"},
            {"role": "user", "content": f"new {number}"},
        ]
        assert turn.message is not None
        path += [{"role": "user", "content": f"new {number}"}, turn.message]
        rules: Message = {"role": "developer", "content": f"rule {number}", "x_vendor": [1]}
        if number % 2:
            by_old(store, old.append, "mixed", rules, *said("a", "b"))
        else:
            store.append("mixed", rules, *said("a", "b"))
        path += [rules, *said("a", "b")]
    return path


def test_both_releases_write_to_one_conversation_in_turn(store: Store, chat_server: ChatServer) -> None:
    path = mixed(store, chat_server)
    assert store.history("mixed", exact=True) == path
    assert by_old(store, old.history, "mixed") == path
    assert [record.position for record in store.messages("mixed", limit=None)] == list(range(1, len(path) + 1))
    turns = store.turns("mixed")
    assert [turn.status for turn in turns] == [TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.COMPLETED] * 8
    assert {turn.usage.total_tokens for turn in turns[::3] if turn.usage is not None} == {9}
    with engine_of(store).connect() as connection:
        stored = connection.execute(text("SELECT seq, back_32, tokens FROM convstore_messages ORDER BY seq")).all()
    assert any(row.back_32 is None and row.tokens is None for row in stored[1101:])  # rows of both releases exist
    assert any(row.back_32 is not None and row.tokens is not None for row in stored[1101:])


def test_every_position_of_a_path_of_both_releases_is_found(store: Store, chat_server: ChatServer) -> None:
    """Rows of the previous release have no ancestors; the rows after them begin again."""
    path = mixed(store, chat_server)
    for position in [*range(1, 1101, 97), *range(1101, len(path) + 1)]:
        assert store.at("mixed", position).message == path[position - 1]
    with pytest.raises(InvalidInput):
        store.at("mixed", len(path) + 1)


def test_a_conversation_of_the_previous_release_is_like_any_other(store: Store, chat_server: ChatServer) -> None:
    by_old(store, old.create, "theirs", [{"role": "system", "content": "Be brief."}])
    by_old(store, old.say, "theirs", "Hi", "Hello")
    by_old(store, old.append, "theirs", *said("One", "Two"))
    conversation = store.get("theirs")
    assert (conversation.length, conversation.settings, conversation.model) == (5, {}, "test-model")
    assert [turn.text for turn in store.turns("theirs")] == ["Hello"]
    assert store.retry("theirs").text == "You said: Hi"
    assert store.say("theirs", "Bye").text == "You said: Bye"


def test_a_turn_of_the_previous_release_that_died_is_taken_over(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_old(store, old.create, "theirs", [])
    by_old(store, old.begin, "theirs", "Are you there?", delta="I was about to")
    monkeypatch.setattr(takeover, "DEFAULT_LEASE_SECONDS", 1.0)  # a SQLite store watches the lease for half of this
    with Store(database_url, owner="ada", lease=1.0) as shorter:
        assert list(shorter.follow("theirs")) == ["I was about to"]
        shorter.append("theirs", "Anybody?")
    (turn,) = store.turns("theirs")
    assert (turn.status, turn.text) == (TurnStatus.INTERRUPTED, "I was about to")
    assert store.history("theirs") == [{"role": "user", "content": "Anybody?"}]


def test_the_head_may_move_back_to_messages_of_the_previous_release(store: Store, chat_server: ChatServer) -> None:
    path = mixed(store, chat_server)
    there = store.get("mixed").head_seq
    store.undo("mixed", 3)
    assert store.history("mixed", exact=True) == path[: path.index({"role": "user", "content": "old 7"})]
    assert store.redo("mixed").head_seq == there
    theirs = store.at("mixed", path.index(replied("answer 5")) + 1)
    store.checkout("mixed", theirs.seq)
    assert store.say("mixed", "Another way").text == "You said: Another way"
    assert store.history("mixed", exact=True)[:-2] == path[: theirs.position]


def test_messages_that_the_previous_release_adds_after_an_undo_are_never_skipped(store: Store) -> None:
    store.new(id="undone", messages=said("One", "Two", "Three", "Four"))
    store.undo("undone")
    by_old(store, old.append, "undone", {"role": "user", "content": "Instead"})
    with pytest.raises(InvalidInput, match="on another branch since its last undo"):
        store.redo("undone")
    assert [message["content"] for message in store.history("undone")] == ["One", "Two", "Instead"]


def test_messages_that_the_previous_release_adds_to_a_fork_or_its_origin_stay_there(
    store: Store, chat_server: ChatServer
) -> None:
    path = mixed(store, chat_server)
    fork = store.fork("mixed", at=1110)
    by_old(store, old.say, "mixed", "In the origin", "Only there")
    assert store.history(fork.id, exact=True) == path[:1110]
    store.say(fork.id, "In the fork")
    assert [message["content"] for message in store.history("mixed")][-2:] == ["In the origin", "Only there"]
    assert store.fork(fork.id).length == 1112


def test_the_previous_release_refuses_rows_that_it_does_not_know(store: Store) -> None:
    """It is an error, not an empty place or a shorter past."""
    store.new(id="origin", messages=said("One", "Two"))
    store.fork("origin", new_id="fork")
    store.append("fork", "Three")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "AAAA" * 2000}}
    store.new(id="image", messages=[{"role": "user", "content": [image]}])
    for id in ("fork", "image"):
        with pytest.raises(old.DamagedRow):
            by_old(store, old.history, id)
    by_old(store, old.append, "fork", {"role": "assistant", "content": "Four"})  # after a message of the fork
    assert [message["content"] for message in store.history("fork")] == ["One", "Two", "Three", "Four"]


def test_the_previous_release_does_not_find_deleted_conversations(store: Store) -> None:
    store.new(id="gone", messages=said("One"))
    store.delete("gone")
    with pytest.raises(NoResultFound):
        by_old(store, old.append, "gone", {"role": "user", "content": "Two"})


@pytest.mark.parametrize("window", [{"last": 3}, {"max_context": 300}])
def test_a_window_over_rows_of_both_releases_begins_at_the_right_message(
    store: Store, chat_server: ChatServer, window: dict[str, Any]
) -> None:
    path = mixed(store, chat_server)
    store.say("mixed", "And?", **window)
    sent = [message["content"] for message in chat_server.requests[-1].body["messages"]]
    rules = [message["content"] for message in path if message["role"] in ("system", "developer")]
    suffix = [content for content in sent if content not in rules][:-1]
    plain = [message["content"] for message in path if message["content"] not in rules]
    assert [content for content in sent if content in rules] == rules
    assert suffix
    assert plain[-len(suffix) :] == suffix
    if "last" in window:
        assert suffix[0] == "old 7"
