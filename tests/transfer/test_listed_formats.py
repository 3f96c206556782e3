"""Test the formats that list messages: plain lists, fine-tuning files and ShareGPT."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from convstore.transfer.fine_tuning import read_fine_tuning
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.plain_messages import read_plain_messages
from convstore.transfer.sharegpt import read_sharegpt
from tests.transfer.damage import change_values, check_damaged, check_whole, read_all

Reader = Callable[[Path], Iterable[ImportedConversation | Problem]]

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello"}
HI = {"role": "assistant", "content": "Hi"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "seen"}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def messages(conversation: ImportedConversation) -> list[Any]:
    return [message.message for message in conversation.messages]


def is_one_path(conversation: ImportedConversation) -> bool:
    ids = [message.id for message in conversation.messages]
    return [message.parent for message in conversation.messages] == [None, *ids[:-1]] and conversation.head == ids[-1]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_of_messages_is_a_conversation(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([SYSTEM, HELLO, CALL, RESULT, HI], indent=indent))

    (found,) = read_all(read_plain_messages(path))

    assert messages(found) == [SYSTEM, HELLO, CALL, RESULT, HI]
    assert is_one_path(found)


def test_lines_of_messages_are_a_conversation_and_lines_of_lists_are_many(tmp_path: Path) -> None:
    (one,) = read_all(read_plain_messages(write(tmp_path / "a.jsonl", HELLO, HI, HELLO, HI)))
    many = read_all(read_plain_messages(write(tmp_path / "b.jsonl", [HELLO, HI], [SYSTEM, HELLO], [HELLO, HI])))
    nested = read_all(read_plain_messages(write(tmp_path / "c.json", [[HELLO, HI], [SYSTEM, HELLO], [HELLO, HI]])))

    assert messages(one) == [HELLO, HI, HELLO, HI]
    assert is_one_path(one)
    assert [messages(found) for found in many] == [[HELLO, HI], [SYSTEM, HELLO], [HELLO, HI]]
    assert nested == many
    assert len({found.id for found in many}) == 3


def test_an_object_with_messages_is_a_conversation(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"model": "gpt", "messages": [HELLO, HI], "tools": TOOLS}, indent=2))

    (found,) = read_all(read_plain_messages(path))

    assert (messages(found), found.metadata) == ([HELLO, HI], {"tools": TOOLS})


def test_a_bad_message_is_a_problem_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", HELLO, {"role": "bot", "content": "?"}, {"role": "user"}, 5, HI)
    *problems, found = check_whole(read_plain_messages(path))

    assert problems == [
        Problem(f"{path}, line 2", "the message has the role 'bot', which is none of Chat Completions"),
        Problem(f"{path}, line 3", "the message has no content"),
        Problem(f"{path}, line 4", "has no list of messages"),
    ]
    assert isinstance(found, ImportedConversation)
    assert (messages(found), found.notes) == ([HELLO, HI], ["2 of its messages could not be read"])

    path = write(tmp_path / "b.jsonl", [HELLO, {"role": "tool", "content": "?"}], [], [HELLO, HI])
    first, second, found = check_whole(read_plain_messages(path))
    assert first == Problem(f"{path}, line 1", "message 2 is a tool's result without a tool_call_id")
    assert second == Problem(f"{path}, line 2", "has no list of messages")
    assert isinstance(found, ImportedConversation)


def test_examples_for_fine_tuning_keep_their_tools_and_lose_their_weights(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.jsonl",
        {"messages": [SYSTEM, HELLO, CALL, RESULT, HI | {"weight": 1}], "tools": TOOLS, "parallel_tool_calls": False},
        {"messages": [SYSTEM, HELLO, HI]},
    )

    first, second = read_all(read_fine_tuning(path))

    assert messages(first) == [SYSTEM, HELLO, CALL, RESULT, HI]
    assert first.metadata == {"tools": TOOLS, "parallel_tool_calls": False}
    assert first.notes == ["the weights of replies are left out"]
    assert (messages(second), second.metadata, second.notes) == ([SYSTEM, HELLO, HI], {}, [])
    assert is_one_path(first)
    assert first.id != second.id


def test_the_outputs_of_a_preference_are_branches(tmp_path: Path) -> None:
    worse = {"role": "assistant", "content": "Go away"}
    given = {"messages": [HELLO], "tools": [], "parallel_tool_calls": True}
    line = {"input": given, "preferred_output": [HI], "non_preferred_output": [worse]}

    (found,) = read_all(read_fine_tuning(write(tmp_path / "pairs.jsonl", line)))

    first, preferred, other = found.messages
    assert [first.message, preferred.message, other.message] == [HELLO, HI, worse]
    assert (preferred.parent, other.parent, found.head) == (first.id, first.id, preferred.id)


def test_a_bad_example_is_a_problem_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.jsonl", {"messages": []}, {"input": {"messages": [HELLO]}}, {"messages": [HELLO, HI]}
    )

    first, second, found = check_whole(read_fine_tuning(path))

    assert first == Problem(f"{path}, line 1", "has no list of messages")
    assert second == Problem(f"{path}, line 2", "has no list of messages (preferred_output)")
    assert isinstance(found, ImportedConversation)


def test_sharegpt_is_read_with_systems_tools_and_rankings(tmp_path: Path) -> None:
    path = tmp_path / "share.json"
    turns = [
        {"from": "human", "value": "Look."},
        {"from": "function_call", "value": json.dumps({"name": "look", "arguments": {"at": "sky"}})},
        {"from": "observation", "value": "blue"},
        {"from": "gpt", "value": "It is blue."},
    ]
    chosen, rejected = {"from": "gpt", "value": "Yes"}, {"from": "gpt", "value": "No"}
    records = [
        {"id": "a_0", "conversations": turns, "system": "Be brief.", "tools": "[]", "model": "gpt-4"},
        {"id": 7, "items": [{"from": "human", "value": "Hello"}, {"from": "chatgpt", "value": "Hi"}]},
        {"conversations": [{"from": "human", "value": "Is it?"}], "chosen": chosen, "rejected": rejected},
        {"id": "empty", "conversations": []},
    ]
    path.write_text(json.dumps(records, indent=2))

    first, second, third = read_all(read_sharegpt(path))

    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    assert messages(first) == [
        SYSTEM,
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "blue"},
        {"role": "assistant", "content": "It is blue."},
    ]
    assert is_one_path(first)
    assert (first.model, first.metadata) == ("gpt-4", {"tools": "[]", "id": "a_0"})
    assert (messages(second), second.metadata) == ([HELLO, HI], {"id": 7})
    question, no, yes = third.messages
    assert (no.message["content"], yes.message["content"]) == ("No", "Yes")
    assert (no.parent, yes.parent, third.head) == (question.id, question.id, yes.id)


def test_a_sender_that_is_not_known_is_a_problem_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write(
        tmp_path / "share.jsonl",
        {"conversations": [{"from": "martian", "value": "?"}]},
        {"conversations": [{"from": "human", "value": 5}]},
        {"text": "?"},
        {"conversations": [{"from": "tool", "value": "lost"}, {"from": "gpt", "value": ""}]},
    )

    *problems, found = check_whole(read_sharegpt(path))

    assert problems == [
        Problem(f"{path}, line 1", "has a message from 'martian', who is not known"),
        Problem(f"{path}, line 2", "has a message from 'human' without a text"),
        Problem(f"{path}, line 3", "has no list `conversations` or `items`"),
    ]
    assert isinstance(found, ImportedConversation)
    assert messages(found) == [{"role": "user", "content": "lost"}]
    assert found.notes == ["a tool's result has no call, and is kept as the user's message"]


@pytest.mark.parametrize("count", [3, 4, 5])
def test_a_conversation_that_grew_keeps_its_id_and_those_of_its_messages(tmp_path: Path, count: int) -> None:
    whole = [SYSTEM, HELLO, HI, HELLO, HI]
    short = write(tmp_path / "short.jsonl", {"messages": whole[:count]})
    long = write(tmp_path / "long.jsonl", {"messages": whole}, {"messages": whole})

    (before,) = read_all(read_fine_tuning(short))
    after, other = read_all(read_fine_tuning(long))

    assert after.id == before.id != other.id
    assert [message.id for message in after.messages][:count] == [message.id for message in before.messages]


@pytest.mark.parametrize(
    ("read", "lines"),
    [
        (read_plain_messages, [SYSTEM, HELLO, CALL, RESULT, HI]),
        (read_plain_messages, [[SYSTEM, HELLO, HI], [HELLO, CALL, RESULT], [HELLO, HI]]),
        (read_plain_messages, [[[SYSTEM, HELLO, HI], [HELLO, CALL, RESULT], [HELLO, HI]]]),
        (read_fine_tuning, [{"messages": [HELLO, CALL, RESULT], "tools": TOOLS}, {"messages": [HELLO, HI]}] * 2),
        (
            read_fine_tuning,
            [{"input": {"messages": [HELLO]}, "preferred_output": [HI], "non_preferred_output": [CALL]}] * 3,
        ),
        (read_fine_tuning, [{"prompt": [HELLO], "chosen": [HI], "rejected": [CALL], "tools": TOOLS}] * 3),
        (
            read_sharegpt,
            [
                {"id": "a", "conversations": [{"from": "human", "value": "Look."}, {"from": "gpt", "value": "I do."}]},
                {"items": [{"from": "function_call", "value": '{"name": "x"}'}, {"from": "tool", "value": "y"}]},
                {"conversations": [{"from": "human", "value": "Is it?"}], "chosen": {"from": "gpt", "value": "Yes"}},
            ],
        ),
    ],
)
def test_damaged_files_give_problems_and_whole_conversations(tmp_path: Path, read: Reader, lines: list[Any]) -> None:
    path = write(tmp_path / "file.jsonl", *lines)

    data = path.read_bytes()
    problems, conversations = check_damaged(path, data, read)

    assert problems > 100
    assert conversations > 100

    problems, conversations = check_damaged(path, data, read, change_values)

    assert problems > 50
    assert conversations > 50
