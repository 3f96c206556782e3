"""Test that the model summarises older messages and that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convstore import Store, TurnFailed, TurnStatus, tool_result
from convstore.context.summary_plan import MAX_SUMMARISED_TOKENS as MOST_TOKENS
from convstore.context.window import SUMMARY_REQUEST
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.conftest import ON_ALL_BACKENDS, Backend

TOO_LONG = Failure(400, "This model's maximum context length is 4096 tokens.", code="context_length_exceeded")


def make_turns(count: int, words: str = "") -> list[dict[str, Any]]:
    return [
        message
        for number in range(1, count + 1)
        for message in (
            {"role": "user", "content": f"question {number}{words}"},
            {"role": "assistant", "content": f"answer {number}"},
        )
    ]


def preview_contents(store: Store, id: str) -> list[str]:
    return [str(message.get("content")) for message in store.preview(id, "next")["messages"]]


def read_summary_request(chat_server: ChatServer) -> str:
    return str(chat_server.requests[-1].body["messages"][-1]["content"])


def test_a_summary_is_sent_instead_of_all_but_the_last_turns(store: Store, chat_server: ChatServer) -> None:
    id = store.new(system="Be brief.", messages=make_turns(4)).id
    chat_server.script(Reply("They counted."))
    (summary,) = store.compact(id, keep_last=1)
    assert (summary.text, summary.up_to_position) == ("They counted.", 7)
    transcript = read_summary_request(chat_server)
    assert "question 3" in transcript
    assert "question 4" not in transcript
    assert "Be brief." not in transcript, "a system message is sent anyway, so no summary contains it"
    assert preview_contents(store, id) == [
        "Be brief.",
        SUMMARY_REQUEST,
        "They counted.",
        "question 4",
        "answer 4",
        "next",
    ]
    assert len(store.history(id)) == 9
    assert store.summary(id) == summary
    assert store.compact(id, keep_last=1) == [], "there is nothing new to summarise"


@ON_ALL_BACKENDS
def test_a_second_summary_includes_the_first_and_each_can_be_dropped(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=make_turns(3)).id
    chat_server.script(Reply("First."))
    (first,) = store.compact(id, keep_last=1)
    store.append(id, *make_turns(2))
    chat_server.script(Reply("Second."))
    (second,) = store.compact(id, keep_last=1)
    transcript = read_summary_request(chat_server)
    assert "First." in transcript
    assert "question 3" in transcript
    assert "question 2\n" not in transcript.split("</summary>")[1].split("question 3")[0]
    assert second.previous_turn == first.turn
    assert store.drop_summary(id) == second
    assert store.summary(id) == first
    assert store.drop_summary(id) == first
    assert store.drop_summary(id) is None
    assert len(preview_contents(store, id)) == 11


def test_a_long_path_is_summarised_in_steps_and_dropped_at_once(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(count_tokens=lambda _: MOST_TOKENS // 6)
    id = store.new(messages=make_turns(10)).id
    chat_server.script(Reply("One."), Reply("Two."), Reply("Three."))
    made = store.compact(id, keep_last=1)
    assert [summary.text for summary in made] == ["One.", "Two.", "Three."]
    assert [summary.up_to_position for summary in made] == [6, 12, 18]
    assert "Two." in read_summary_request(chat_server)
    assert store.drop_summary(id) == made[-1]
    assert store.summary(id) is None


def test_a_summary_request_that_is_too_long_is_repeated_with_fewer_messages(
    backend: Backend, chat_server: ChatServer
) -> None:
    store = backend.open(count_tokens=lambda _: 100)
    id = store.new(messages=make_turns(8)).id
    chat_server.script(TOO_LONG, Reply("Half."), Reply("All."))
    made = store.compact(id, keep_last=0)
    assert [(summary.text, summary.up_to_position) for summary in made] == [("Half.", 8), ("All.", 16)]


def test_compaction_fails_if_a_single_turn_is_too_long(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(count_tokens=lambda _: 1000)
    id = store.new(messages=make_turns(2)).id
    chat_server.otherwise = lambda _: TOO_LONG
    with pytest.raises(TurnFailed, match="maximum context length") as caught:
        store.compact(id, keep_last=1)
    assert len(chat_server.requests) == 2
    assert (caught.value.turn.purpose, caught.value.turn.status) == ("summary", TurnStatus.FAILED)
    assert store.summary(id) is None
    assert len(preview_contents(store, id)) == 5


@pytest.mark.parametrize("reply", [Reply(""), Failure(401), Reply("cut", finish_reason=None)], ids=str)
def test_a_call_without_a_summary_is_stored_as_a_failed_turn_and_changes_nothing(
    store: Store, chat_server: ChatServer, reply: Any
) -> None:
    id = store.new(messages=make_turns(3)).id
    chat_server.script(reply)
    with pytest.raises(TurnFailed, match="nothing has changed"):
        store.compact(id)
    assert [(turn.purpose, turn.status) for turn in store.turns(id)] == [("summary", TurnStatus.FAILED)]
    assert len(preview_contents(store, id)) == 7
    chat_server.script(Reply("Again."))
    assert [summary.text for summary in store.compact(id)] == ["Again."]


def test_a_turn_that_waits_for_a_tool_result_is_never_summarised(store: Store, chat_server: ChatServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    id = store.new(messages=[*make_turns(1), {"role": "user", "content": "Weather?"}]).id
    store.append(id, {"role": "assistant", "content": None, "tool_calls": [call]})
    chat_server.script(Reply("Summed up."))
    (summary,) = store.compact(id, keep_last=0)
    assert summary.up_to_position == 2
    store.append(id, tool_result("c1", "rain"))
    chat_server.script(Reply("It rains."))
    assert store.complete(id).text == "It rains."
    roles = [message["role"] for message in chat_server.requests[-1].body["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "tool"]


def test_a_conversation_is_compacted_automatically_above_compact_at(store: Store, chat_server: ChatServer) -> None:
    usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
    id = store.new(messages=make_turns(3, " with many more words than before" * 5), compact_at=400, keep_last=1).id
    chat_server.script(Reply("Hello.", usage=usage), Reply("By itself."))
    assert store.say(id, "Hi").text == "Hello."
    summary = store.summary(id)
    assert summary is not None
    assert summary.text == "By itself."
    assert preview_contents(store, id) == [SUMMARY_REQUEST, "By itself.", "Hi", "Hello.", "next"]


@ON_ALL_BACKENDS
def test_only_one_caller_at_a_time_compacts_automatically(
    store: Store, chat_server: ChatServer, hold: Callable[..., Any], run_in_thread: Callable[..., Any]
) -> None:
    usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
    id = store.new(messages=make_turns(3, " with many more words than before" * 5), compact_at=400, keep_last=1).id
    chat_server.script(Reply("Hello.", usage=usage))
    held = hold("By itself.")
    first = run_in_thread(lambda: store.say(id, "Hi"))
    held.wait()  # the turn has ended, and its compaction still runs
    chat_server.script(Reply("Hello again.", usage=usage))
    assert store.say(id, "Hi again").text == "Hello again."
    assert len(chat_server.requests) == 3
    held.release()
    assert first.result(60).text == "Hello."
    summary = store.summary(id)
    assert summary is not None
    assert summary.text == "By itself."
    store.append(id, *make_turns(3, " with many more words than before" * 5))
    chat_server.script(Reply("And again.", usage=usage), Reply("The next one."))
    store.say(id, "Hi once more")
    assert [turn.purpose for turn in store.turns(id)].count("summary") == 2, (
        "after the first compaction has ended, another may run"
    )


def test_a_failed_automatic_compaction_does_not_affect_the_reply(store: Store, chat_server: ChatServer) -> None:
    usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
    id = store.new(messages=make_turns(3, " with many more words than before" * 5), compact_at=400, keep_last=1).id
    chat_server.script(Reply("Hello.", usage=usage), Failure(400))
    with store.stream(id, "Hi") as reply:
        assert "".join(reply) == "Hello."
    assert reply.turn.status is TurnStatus.COMPLETED
    assert [turn.status for turn in store.turns(id)] == [TurnStatus.COMPLETED, TurnStatus.FAILED]


def test_a_summary_is_sent_only_if_the_messages_that_it_covers_are_on_the_path(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new(messages=make_turns(4)).id
    chat_server.script(Reply("Of three."))
    store.compact(id, keep_last=1)
    early = store.fork(id, at=2)
    late = store.fork(id)
    assert preview_contents(store, late.id) == [SUMMARY_REQUEST, "Of three.", "question 4", "answer 4", "next"]
    assert preview_contents(store, early.id) == ["question 1", "answer 1", "next"]
    store.undo(id, 3)
    assert preview_contents(store, id) == ["question 1", "answer 1", "next"]
    store.redo(id)
    store.drop_summary(id)
    assert len(preview_contents(store, id)) == 9
    assert len(preview_contents(store, late.id)) == 5, "the fork still has its summary"
