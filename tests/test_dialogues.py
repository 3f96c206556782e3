"""Test that real dialogues, and every message that openai's types allow, come back equal from both databases."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from convstore import Store
from convstore.messages.request_form import to_request
from convstore.testing import ChatServer
from tests.pure.strategies import any_message, reply_message, vendor_fields

Message = dict[str, Any]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("mode", ["whole", "streamed"])
def test_eighty_dialogues_of_two_turns_are_said_and_remembered(
    shared_data: Path, database_url: str, chat_server: ChatServer, mode: str
) -> None:
    questions = read(shared_data / "mt_bench_questions.jsonl")
    assert [len(question["turns"]) for question in questions] == [2] * 80
    expected: list[list[Message]] = []
    with Store(database_url, base_url=chat_server.url, model="test-model") as store:
        for question in questions:
            id = store.new(id=f"mt-{question['question_id']}", metadata={"category": question["category"]}).id
            messages: list[Message] = []
            for text in question["turns"]:
                messages.append({"role": "user", "content": text})
                expected.append([*messages])
                if mode == "whole":
                    turn = store.say(id, text)
                else:
                    with store.stream(id, text) as reply:
                        assert "".join(reply) == f"You said: {text}"
                    turn = reply.turn
                messages.append({"role": "assistant", "content": f"You said: {text}"})
                assert turn.message == messages[-1]
            assert store.history(id) == store.history(id, exact=True) == messages
    assert [request.body["messages"] for request in chat_server.requests] == expected


def test_five_hundred_chinese_dialogues_come_back_equal(shared_data: Path, database_url: str) -> None:
    dialogues = read(shared_data / "crosswoz_val.jsonl")
    assert (len(dialogues), sum(len(dialogue["messages"]) for dialogue in dialogues)) == (500, 8_458)
    with Store(database_url) as store:
        for dialogue in dialogues:
            first, *rest = dialogue["messages"]
            store.new(id=dialogue["id"], messages=[first])
            store.append(dialogue["id"], *rest)
        for dialogue in dialogues:
            records = store.messages(dialogue["id"], limit=None)
            assert [record.message for record in records] == dialogue["messages"]
            assert [record.position for record in records] == list(range(1, len(records) + 1))
        longest = max(dialogues, key=lambda dialogue: len(dialogue["messages"]))
        assert store.history(longest["id"]) == longest["messages"]
        assert store.history(longest["id"], limit=5) == longest["messages"][-5:]
        assert sum(conversation.length for conversation in store.list(limit=None)) == 8_458


def typed(value: object) -> str:
    """Return a text that is equal only if values and types are equal: for `==`, 1, 1.0 and True are the same."""
    return json.dumps(value, sort_keys=True)


def test_any_message_comes_back_equal_from_the_database(database_url: str) -> None:
    numbers = itertools.count()

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(any_message, min_size=15, max_size=40), st.lists(st.tuples(reply_message, vendor_fields), max_size=5)
    )
    def check(messages: list[Message], replies: list[tuple[Message, Message]]) -> None:
        answered = [{**vendor, **fields} for fields, vendor in replies]
        objects = [ChatCompletionMessage.construct(**fields) for fields in answered]
        expected = [*messages, *answered]
        id = store.new(id=f"batch-{next(numbers)}").id
        appended = store.append(id, *messages, *objects)
        exact = store.history(id, exact=True)
        assert exact == expected
        assert typed(exact) == typed(expected)
        assert store.history(id) == [to_request(message) for message in expected]
        assert store.messages(id, limit=None) == appended

    with Store(database_url) as store:
        check()
        assert next(numbers) >= 12
