"""Test the reader of LibreChat's export with samples in its form."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from convstore.transfer.export_files import open_export_files
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.librechat_export import NO_PARENT, read_librechat_export
from tests.transfer.reading import check_damaged, check_odd_values, draw, read_bytes, read_json, read_one


def say(id_: str, parent: str | None, text: str, minute: int, **fields: Any) -> dict[str, Any]:
    by_user = id_.startswith("u")
    return {
        "messageId": id_,
        "conversationId": "c1",
        "parentMessageId": parent,
        "createdAt": f"2024-05-28T18:{minute:02}:55.014Z",
        "endpoint": "openAI",
        "error": False,
        "isCreatedByUser": by_user,
        "model": None if by_user else "gpt-4o",
        "sender": "User" if by_user else "GPT-4",
        "text": text,
        "unfinished": False,
        **fields,
    }


def make(messages: Any, **fields: Any) -> dict[str, Any]:
    return {
        "conversationId": "c1",
        "endpoint": "openAI",
        "title": "Original",
        "exportAt": "08:12:16 GMT-0400 (Eastern Daylight Time)",
        "branches": True,
        "recursive": False,
        "options": {"model": "gpt-4o", "promptPrefix": None, "temperature": 1},
        "messages": messages,
        **fields,
    }


def flat() -> dict[str, Any]:
    return make(
        [
            say("u1", NO_PARENT, "A story", 8),
            say("a1", "u1", "Once", 9, unfinished=True),
            say("a2", "u1", "Twice", 10),
            say("u2", NO_PARENT, "A long story", 14),
            say("a3", "u2", "Thrice", 15),
        ]
    )


def recursive(root: bool = False) -> dict[str, Any]:
    inner = say("a1", "u1", "Once", 9, children=[say("u3", "a1", "Go on", 16, children=[])])
    tree = [
        say("u1", NO_PARENT, "A story", 8, children=[inner, say("a2", "u1", "Twice", 10, children=[])]),
        say("u2", NO_PARENT, "A long story", 14, children=[say("a3", "u2", "Thrice", 15, children=[])]),
    ]
    if root:
        return make(None, recursive=True, messagesTree=tree)
    return make({"messageId": "c1", "children": tree}, recursive=True)


def with_parts() -> dict[str, Any]:
    parts = [
        {"type": "think", "think": "I look."},
        {"type": "text", "text": "Let me see.", "tool_call_ids": ["call_1"]},
        {
            "type": "tool_call",
            "tool_call": {
                "id": "call_1",
                "name": "search",
                "args": '{"q":"x"}',
                "type": "tool_call",
                "output": "found",
            },
        },
        {
            "type": "tool_call",
            "tool_call": {
                "id": "call_2",
                "type": "code_interpreter",
                "code_interpreter": {"input": "1 + 1", "outputs": []},
                "progress": 1,
            },
        },
        {"type": "text", "text": {"value": "Found.", "annotations": []}},
        {"type": "image_file", "image_file": {"file_id": "f", "filename": "plot.png"}},
    ]
    return make(
        [
            say("u1", NO_PARENT, "Look", 1, files=[{"file_id": "1", "filename": "a.pdf", "type": "application/pdf"}]),
            say("a1", "u1", "", 2, content=parts),
            say("u2", "a1", "Thanks", 3),
            say("a2", "u2", "Quota exceeded", 4, error=True),
        ],
        options={"model": "gpt-4o", "promptPrefix": "You are an engineer."},
    )


def test_a_flat_export_may_have_several_first_messages() -> None:
    read = read_one(read_librechat_export, flat())

    assert draw(read) == [
        ("u1", None, "user", "A story"),
        ("a1", "u1", "assistant", "Once"),
        ("a2", "u1", "assistant", "Twice"),
        ("u2", None, "user", "A long story"),
        ("a3", "u2", "assistant", "Thrice"),
    ]
    assert (read.id, read.title, read.head, read.model) == ("c1", "Original", "a3", "gpt-4o")
    assert read.created_at == datetime(2024, 5, 28, 18, 8, 55, 14_000, UTC)
    assert read.metadata == {"endpoint": "openAI"}


@pytest.mark.parametrize("root", [False, True])
def test_a_recursive_export_is_the_same_tree(root: bool) -> None:
    read = read_one(read_librechat_export, recursive(root))

    assert draw(read) == [
        ("u1", None, "user", "A story"),
        ("a1", "u1", "assistant", "Once"),
        ("u3", "a1", "user", "Go on"),
        ("a2", "u1", "assistant", "Twice"),
        ("u2", None, "user", "A long story"),
        ("a3", "u2", "assistant", "Thrice"),
    ]
    assert read.head == "u3"


def test_the_parts_of_a_reply_become_calls_and_results() -> None:
    read = read_one(read_librechat_export, with_parts())

    assert [said.message for said in read.messages] == [
        {"role": "system", "content": "You are an engineer."},
        {"role": "user", "content": "Look\n\n[file a.pdf]"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "I look.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"q":"x"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "found"},
        {
            "role": "assistant",
            "content": '[tool call code_interpreter]\n{"input": "1 + 1"}\n\nFound.\n\n[image plot.png]',
            "convstore_imported": {
                "content": [{"type": "image_file", "image_file": {"file_id": "f", "filename": "plot.png"}}]
            },
        },
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "[error]\n\nQuota exceeded"},
    ]


def test_a_recursive_export_of_a_long_conversation_is_read_or_refused_by_name() -> None:
    def nest(count: int) -> str:
        begin = "".join(
            json.dumps(say(f"u{number}", None, "Hi", 1))[:-1] + ', "children": [' for number in range(count)
        )
        return '{"conversationId": "c1", "recursive": true, "messages": [' + begin + "]}" * count + "]}"

    (read,) = read_json_text(nest(300))
    (refused,) = read_json_text(nest(30_000))

    assert isinstance(read, ImportedConversation)
    assert len(read.messages) == 300
    assert isinstance(refused, Problem)
    assert refused.reason.startswith("it is nested more deeply than Python's parser reads")


def read_json_text(text: str) -> list[ImportedConversation | Problem]:
    return read_bytes(read_librechat_export, text.encode())


def test_a_folder_of_exports_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(flat()))
    (tmp_path / "a.json").write_text(json.dumps({**recursive(), "conversationId": "c2"}))
    (tmp_path / "notes.txt").write_text("not read")

    with open_export_files(tmp_path) as files:
        read = list(read_librechat_export(files))

    assert [result.id for result in read if isinstance(result, ImportedConversation)] == ["c2", "c1"]


def test_what_is_no_conversation_is_a_problem() -> None:
    results = read_json(read_librechat_export, [{"messages": []}, make([]), 1])

    assert [result.reason for result in results if isinstance(result, Problem)] == [
        "it is not a conversation: it has no `conversationId` or no `messages`",
        "it has no messages",
        "it is not a conversation: it has no `conversationId` or no `messages`",
    ]


@pytest.mark.parametrize("sample", [flat(), recursive(), with_parts()], ids=["flat", "recursive", "parts"])
def test_damaged_json_gives_problems_and_whole_conversations(sample: dict[str, Any]) -> None:
    check_damaged(read_librechat_export, json.dumps(sample).encode(), seed=31)


def test_values_of_other_types_give_problems_and_whole_conversations() -> None:
    made = [flat(), recursive(), with_parts()]
    samples = [{**sample, "conversationId": f"c{number}"} for number, sample in enumerate(made)]
    check_odd_values(read_librechat_export, samples, seed=32)
