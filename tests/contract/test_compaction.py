"""The older part of a conversation is summarised by the model; the summary stands in for it, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convstore import Store, TurnFailed, TurnStatus, tool_result
from convstore.context.summary_plan import MAX_SUMMARISED_TOKENS as MOST_TOKENS
from convstore.context.window import SUMMARY_REQUEST
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.conftest import ON_CALLERS_ENGINES_TOO, Backend

TOO_LONG = Failure(400, "This model's maximum context length is 4096 tokens.", code="context_length_exceeded")


def pairs(count: int, words: str = "") -> list[dict[str, Any]]:
    return [
        message
        for number in range(1, count + 1)
        for message in (
            {"role": "user", "content": f"question {number}{words}"},
            {"role": "assistant", "content": f"answer {number}"},
        )
    ]


def sent(store: Store, id: str) -> list[str]:
    return [str(message.get("content")) for message in store.preview(id, "next")["messages"]]


def asked(chat_server: ChatServer) -> str:
    return str(chat_server.requests[-1].body["messages"][-1]["content"])


def test_the_summary_stands_in_for_all_but_the_last_turns(store: Store, chat_server: ChatServer) -> None:
    id = store.new(system="Be brief.", messages=pairs(4)).id
    chat_server.script(Reply("They counted."))
    (summary,) = store.compact(id, keep_last=1)
    assert (summary.text, summary.up_to_position) == ("They counted.", 7)
    transcript = asked(chat_server)
    assert "question 3" in transcript
    assert "question 4" not in transcript
    assert "Be brief." not in transcript, "system messages are sent anyway"
    assert sent(store, id) == ["Be brief.", SUMMARY_REQUEST, "They counted.", "question 4", "answer 4", "next"]
    assert len(store.history(id)) == 9
    assert store.summary(id) == summary
    assert store.compact(id, keep_last=1) == [], "there is nothing new to summarise"


@ON_CALLERS_ENGINES_TOO
def test_a_second_summary_is_of_the_first_and_what_came_since_and_each_can_be_taken_back(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new(messages=pairs(3)).id
    chat_server.script(Reply("First."))
    (first,) = store.compact(id, keep_last=1)
    store.append(id, *pairs(2))
    chat_server.script(Reply("Second."))
    (second,) = store.compact(id, keep_last=1)
    transcript = asked(chat_server)
    assert "First." in transcript
    assert "question 3" in transcript
    assert "question 2\n" not in transcript.split("</summary>")[1].split("question 3")[0]
    assert second.previous_turn == first.turn
    assert store.drop_summary(id) == second
    assert store.summary(id) == first
    assert store.drop_summary(id) == first
    assert store.drop_summary(id) is None
    assert len(sent(store, id)) == 11


def test_a_long_past_is_summarised_step_by_step_and_taken_back_at_once(
    backend: Backend, chat_server: ChatServer
) -> None:
    store = backend.open(count_tokens=lambda _: MOST_TOKENS // 6)
    id = store.new(messages=pairs(10)).id
    chat_server.script(Reply("One."), Reply("Two."), Reply("Three."))
    made = store.compact(id, keep_last=1)
    assert [summary.text for summary in made] == ["One.", "Two.", "Three."]
    assert [summary.up_to_position for summary in made] == [6, 12, 18]
    assert "Two." in asked(chat_server)
    assert store.drop_summary(id) == made[-1]
    assert store.summary(id) is None


def test_a_request_that_is_too_long_is_made_with_less(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(count_tokens=lambda _: 100)
    id = store.new(messages=pairs(8)).id
    chat_server.script(TOO_LONG, Reply("Half."), Reply("All."))
    made = store.compact(id, keep_last=0)
    assert [(summary.text, summary.up_to_position) for summary in made] == [("Half.", 8), ("All.", 16)]


def test_one_turn_that_is_too_long_by_itself_is_a_failure_and_not_asked_for_ever(
    backend: Backend, chat_server: ChatServer
) -> None:
    store = backend.open(count_tokens=lambda _: 1000)
    id = store.new(messages=pairs(2)).id
    chat_server.otherwise = lambda _: TOO_LONG
    with pytest.raises(TurnFailed, match="maximum context length") as caught:
        store.compact(id, keep_last=1)
    assert len(chat_server.requests) == 2
    assert (caught.value.turn.purpose, caught.value.turn.status) == ("summary", TurnStatus.FAILED)
    assert store.summary(id) is None
    assert len(sent(store, id)) == 5


@pytest.mark.parametrize("reply", [Reply(""), Failure(401), Reply("cut", finish_reason=None)], ids=str)
def test_no_summary_is_a_failure_on_record_that_changes_nothing(
    store: Store, chat_server: ChatServer, reply: Any
) -> None:
    id = store.new(messages=pairs(3)).id
    chat_server.script(reply)
    with pytest.raises(TurnFailed, match="nothing has changed"):
        store.compact(id)
    assert [(turn.purpose, turn.status) for turn in store.turns(id)] == [("summary", TurnStatus.FAILED)]
    assert len(sent(store, id)) == 7
    chat_server.script(Reply("Again."))
    assert [summary.text for summary in store.compact(id)] == ["Again."]


def test_a_turn_that_waits_for_a_tool_is_never_summarised_away(store: Store, chat_server: ChatServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    id = store.new(messages=[*pairs(1), {"role": "user", "content": "Weather?"}]).id
    store.append(id, {"role": "assistant", "content": None, "tool_calls": [call]})
    chat_server.script(Reply("Summed up."))
    (summary,) = store.compact(id, keep_last=0)
    assert summary.up_to_position == 2
    store.append(id, tool_result("c1", "rain"))
    chat_server.script(Reply("It rains."))
    assert store.complete(id).text == "It rains."
    roles = [message["role"] for message in chat_server.requests[-1].body["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "tool"]


def test_a_conversation_compacts_itself_past_its_threshold(store: Store, chat_server: ChatServer) -> None:
    usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
    id = store.new(messages=pairs(3, " with many more words than before" * 5), compact_at=400, keep_last=1).id
    chat_server.script(Reply("Hello.", usage=usage), Reply("By itself."))
    assert store.say(id, "Hi").text == "Hello."
    summary = store.summary(id)
    assert summary is not None
    assert summary.text == "By itself."
    assert sent(store, id) == [SUMMARY_REQUEST, "By itself.", "Hi", "Hello.", "next"]


@ON_CALLERS_ENGINES_TOO
def test_while_one_caller_compacts_by_itself_no_other_pays_for_the_same(
    store: Store, chat_server: ChatServer, hold: Callable[..., Any], elsewhere: Callable[..., Any]
) -> None:
    usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
    id = store.new(messages=pairs(3, " with many more words than before" * 5), compact_at=400, keep_last=1).id
    chat_server.script(Reply("Hello.", usage=usage))
    held = hold("By itself.")
    first = elsewhere(lambda: store.say(id, "Hi"))
    held.wait()  # the turn is over, and its compaction is not
    chat_server.script(Reply("Hello again.", usage=usage))
    assert store.say(id, "Hi again").text == "Hello again."
    assert len(chat_server.requests) == 3
    held.let_go()
    assert first.result(10).text == "Hello."
    summary = store.summary(id)
    assert summary is not None
    assert summary.text == "By itself."
    store.append(id, *pairs(3, " with many more words than before" * 5))
    chat_server.script(Reply("And again.", usage=usage), Reply("The next one."))
    store.say(id, "Hi once more")
    assert [turn.purpose for turn in store.turns(id)].count("summary") == 2, "it may be done again afterwards"


def test_a_compaction_that_fails_by_itself_spoils_no_reply(store: Store, chat_server: ChatServer) -> None:
    usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
    id = store.new(messages=pairs(3, " with many more words than before" * 5), compact_at=400, keep_last=1).id
    chat_server.script(Reply("Hello.", usage=usage), Failure(400))
    with store.stream(id, "Hi") as reply:
        assert "".join(reply) == "Hello."
    assert reply.turn.status is TurnStatus.COMPLETED
    assert [turn.status for turn in store.turns(id)] == [TurnStatus.COMPLETED, TurnStatus.FAILED]


def test_a_summary_stands_in_only_where_what_it_is_of_is_on_the_path(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=pairs(4)).id
    chat_server.script(Reply("Of three."))
    store.compact(id, keep_last=1)
    early = store.fork(id, at=2)
    late = store.fork(id)
    assert sent(store, late.id) == [SUMMARY_REQUEST, "Of three.", "question 4", "answer 4", "next"]
    assert sent(store, early.id) == ["question 1", "answer 1", "next"]
    store.undo(id, 3)
    assert sent(store, id) == ["question 1", "answer 1", "next"]
    store.redo(id)
    store.drop_summary(id)
    assert len(sent(store, id)) == 9
    assert len(sent(store, late.id)) == 5, "a fork keeps its own"
