"""Test that conversations of earlier releases go on in this one: say, undo, fork, windows, summaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from convstore import Store, TurnStatus
from convstore.errors import ConversationExists, IdempotencyMismatch
from convstore.messages.tool_calls import PLACEHOLDER_RESULT_TEXT
from convstore.testing import ChatServer, Reply
from tests.contract.invariants import check_conversation, engine_of
from tests.schema.old.kept import UNEXPLAINED, Old

WINDOWED = {"tree", "fork-of-fork"}
"""Conversations of which `last` and a summary send only a part."""


@pytest.fixture
def store(old: Old, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Yield a store of this release on the database of an old one."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    old.upgrade()
    with Store(old.url, base_url=chat_server.url, model="test-model") as store:
        yield store


def test_every_conversation_goes_on_at_its_head(old: Old, store: Store, chat_server: ChatServer) -> None:
    answered = {"role": "assistant", "content": "I do."}
    chat_server.otherwise = lambda _: Reply("I do.", usage=None)  # it cannot count content that is not text
    for owner, id, read in old.conversations():
        mine, before = store.for_owner(owner), read["history"]
        (added,) = mine.append(id, {"role": "user", "content": "An addition"})
        assert added.position == len(before) + 1
        # Earlier releases sent tool calls without results.
        turn = mine.say(id, "Do you remember?", fill_missing_tools=True)
        path = [*before, {"role": "user", "content": "An addition"}, {"role": "user", "content": "Do you remember?"}]
        if id not in WINDOWED:
            assert without_placeholders(mine.history(id)[:-1]) == sent(chat_server), (owner, id)
        assert [turn.status, turn.message] == [TurnStatus.COMPLETED, answered]
        assert mine.history(id, exact=True) == [*path, answered]
        retried = mine.retry(id)
        assert retried.output_seq != turn.output_seq
        places = [record.seq for record in mine.messages(id, limit=None)]
        assert places[: len(before)] == [record["seq"] for record in read["messages"]]
        if (old.revision, id) not in UNEXPLAINED:
            check_conversation(store, owner, id)


def sent(chat_server: ChatServer) -> list[dict[str, Any]]:
    """Return the messages of the latest request, without placeholders for tool results."""
    return without_placeholders(chat_server.requests[-1].body["messages"])


def without_placeholders(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message.get("content") != PLACEHOLDER_RESULT_TEXT]


def test_every_position_of_every_conversation_is_found(old: Old, store: Store) -> None:
    for owner, id, read in old.conversations():
        mine = store.for_owner(owner)
        for position, message in list(enumerate(read["history"], 1))[:: 1 if len(read["history"]) < 40 else 7]:
            assert mine.at(id, position).message == message
        tree = {record.seq: record.message for record in mine.tree(id)}
        assert all(tree[record["seq"]] == record["message"] for record in read["messages"])
        assert all(tree[record["seq"]] == record["message"] for asked in read["inputs"] for record in asked)
        assert all(tree[turn["output_seq"]] == turn["message"] for turn in read["turns"] if turn["output_seq"])
        assert len(tree) == conversation_row(store, owner, id).next_seq - 1


def conversation_row(store: Store, owner: str, id: str) -> Any:
    with engine_of(store).connect() as connection:
        where = {"owner": owner, "id": id}
        return connection.execute(
            text("SELECT * FROM convstore_conversations WHERE owner = :owner AND id = :id"), where
        ).one()


def test_every_conversation_can_be_undone_redone_and_checked_out(old: Old, store: Store) -> None:
    undone = 0
    for owner, id, read in old.conversations():
        mine, path = store.for_owner(owner), read["history"]
        mine.append(id, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "One more"})
        assert mine.undo(id).length == len(path) + 1
        assert mine.redo(id).length == len(path) + 2
        mine.checkout(id, read["conversation"]["head_seq"])
        if any(message["role"] == "user" for message in path):
            shorter = mine.undo(id)
            undone += 1
            assert mine.history(id, exact=True) == path[: shorter.length]
            assert path[shorter.length]["role"] in ("user", "system", "developer")
            assert mine.redo(id).length == len(path)
        if path:
            first = read["messages"][0]["seq"]
            assert mine.checkout(id, first).length == 1
            assert mine.history(id, exact=True) == path[:1]
            mine.checkout(id, read["conversation"]["head_seq"])
        assert mine.history(id, exact=True) == path
    assert undone > 15


def test_every_conversation_can_be_forked_anywhere(old: Old, store: Store, chat_server: ChatServer) -> None:
    chat_server.otherwise = lambda _: Reply("Yes.", usage=None)
    for owner, id, read in old.conversations():
        mine, path = store.for_owner(owner), read["history"]
        for at in {0, 1, len(path) // 2, len(path)} - ({1} if not path else set()):
            fork = mine.fork(id, at=at)
            assert mine.history(fork.id, exact=True) == path[:at]
            mine.say(fork.id, "In the fork", fill_missing_tools=True)
            if id not in WINDOWED:
                assert sent(chat_server)[:-1] == without_placeholders(mine.history(fork.id)[:-2])
            assert [message["content"] for message in mine.history(fork.id)[at:]] == ["In the fork", "Yes."]
            if (old.revision, id) not in UNEXPLAINED:
                check_conversation(store, owner, fork.id)
        assert mine.history(id, exact=True) == path


@pytest.mark.parametrize(("window", "first"), [({"last": 2}, "Number 149"), ({"max_context": 500}, None)])
def test_a_window_over_messages_without_token_counts_is_whole(
    old: Old, store: Store, chat_server: ChatServer, window: dict[str, Any], first: str | None
) -> None:
    """The rows of the long conversation have no tokens and no ancestors, only parents."""
    (read,) = (it for _, id, it in old.conversations() if id == "long")
    mine = store.for_owner("ada")
    mine.pin("long", 4)
    mine.say("long", "And?", **window)
    messages = [message["content"] for message in chat_server.requests[-1].body["messages"]]
    path = read["history"]
    rules = [message["content"] for message in path if message["role"] == "system"]
    assert [content for content in messages if content in rules] == rules
    assert path[3]["content"] in messages
    tail = [content for content in messages if content not in (*rules, path[3]["content"], "And?")]
    assert tail == [message["content"] for message in path if message["role"] != "system"][-len(tail) :]
    assert 2 < len(tail) < 120
    assert tail[0].startswith(first or "Number ")


def test_a_conversation_of_an_old_release_can_be_summarised(old: Old, store: Store, chat_server: ChatServer) -> None:
    mine = store.for_owner("ada")
    before = mine.history("long", exact=True)
    chat_server.otherwise = lambda _: Reply("They counted.")
    *_, summary = mine.compact("long", keep_last=1)
    assert mine.history("long", exact=True) == before
    mine.say("long", "And?")
    messages = [message["content"] for message in chat_server.requests[-1].body["messages"]]
    assert "They counted." in messages
    assert messages[-3:] == ["Number 150", "That was number 150", "And?"]
    assert summary.up_to_position == len(before) - 2


def test_a_turn_whose_process_was_killed_keeps_what_its_stream_had_received(old: Old, store: Store) -> None:
    owner = store.for_owner("用户 7")
    for id, came in (("killed-saying", None), ("killed-streaming", {"role": "assistant", "content": "Half of 😀 a "})):
        owner.append(id, "Anybody?")
        (turn,) = owner.turns(id)
        assert turn.status is TurnStatus.INTERRUPTED
        assert turn.message == (came if old.revision >= "0002" else None)
        assert [record.message["content"] for record in owner.input_of(turn)] == ["Are you still there?"]
        assert [message["content"] for message in owner.history(id)] == ["Stay.", "Hello", "", "Anybody?"]
    with engine_of(store).connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM convstore_deltas")) == 0


def test_a_key_that_an_old_release_used_is_used(
    restore: Callable[[str], Old], chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    old = restore("0002")
    old.upgrade()
    with Store(old.url, base_url=chat_server.url, owner="ada", model="test-model") as store:
        before = store.history("keys")
        said = store.say("keys", "Charge my card", idempotency_key="order/1", temperature=0.5)
        assert said.text == "You said: Charge my card"
        assert store.say("keys", "Charge it again", idempotency_key="订单 2").seq == 3
        with store.stream("keys", "And as a stream", idempotency_key="stream") as reply:
            assert "".join(reply) == "You said: And as a stream"
        assert len(store.append("keys", "A note", "And one more", idempotency_key="note")) == 2
        with pytest.raises(IdempotencyMismatch):
            store.say("keys", "Charge another card", idempotency_key="order/1")
        assert store.history("keys") == before
        assert chat_server.requests == []
        assert store.say("keys", "Never charged", idempotency_key="order/3").text == "You said: Never charged"


def test_making_an_old_conversation_again_with_the_same_content_returns_it(old: Old, store: Store) -> None:
    again: dict[str, Any] = {"title": "Of owner 0", "name": "handle", "system": "You serve 0."}
    if old.revision >= "0003":
        again["fill_missing_tools"] = True  # as `old/filling.py` gave it
    if old.revision >= "0002":
        assert store.new(id="same", **again).length == 5
        again["title"] = "Another"
    with pytest.raises(ConversationExists):  # nobody knows the creation time of a conversation of 0001
        store.new(id="same", **again)


def test_sticky_settings_are_still_sent(old: Old, store: Store, chat_server: ChatServer) -> None:
    store.say("sticky", "And now?")
    body = chat_server.requests[-1].body
    (settings,) = (it["conversation"]["settings"] for _, id, it in old.conversations() if id == "sticky")
    assert {key: body[key] for key in settings} == settings
    assert set(settings) == {"model", "top_p", "stop", "logit_bias", "tools", "response_format", "x_vendor"}
