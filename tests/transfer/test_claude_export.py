"""Test the reader of claude.ai's export with samples in its form."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from convstore.transfer.claude_export import NO_PARENT, read_claude_export
from convstore.transfer.export_files import open_export_files
from convstore.transfer.imported import ImportedConversation, Problem
from tests.transfer.reading import check_damaged, check_odd_values, draw, make_zip, read_bytes, read_json, read_one

TIME = "2026-03-07T12:04:42.551130Z"


def say(sender: str, uuid: str, parent: str | None, text: str = "", **fields: Any) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "text": text,
        "content": [
            {
                "start_timestamp": TIME,
                "stop_timestamp": TIME,
                "flags": None,
                "type": "text",
                "text": text,
                "citations": [],
            }
        ],
        "sender": sender,
        "created_at": TIME,
        "updated_at": TIME,
        "attachments": [],
        "files": [],
        "parent_message_uuid": parent,
        **fields,
    }


def make(messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {
        "uuid": "c1",
        "name": "Skills",
        "summary": "",
        "created_at": "2026-03-07T12:04:40.918149Z",
        "updated_at": TIME,
        "account": {"uuid": "someone"},
        "chat_messages": messages,
        **fields,
    }


def branched() -> dict[str, Any]:
    return make(
        [
            say("human", "h1", NO_PARENT, "Hello"),
            say("assistant", "a1", "h1", "Hi."),
            say("assistant", "a2", "h1", "Hey.", created_at="2026-03-07T12:05:00Z"),
            say("human", "h2", "a1", "Go on"),
            say("human", "h1b", NO_PARENT, "Hullo", created_at="2026-03-07T12:04:00Z"),
        ]
    )


def with_tools() -> dict[str, Any]:
    def use(name: str, id_: str | None, **given: Any) -> dict[str, Any]:
        return {"type": "tool_use", "id": id_, "name": name, "input": given, "message": name, "flags": None}

    def result(name: str, id_: str | None, content: Any) -> dict[str, Any]:
        return {"type": "tool_result", "tool_use_id": id_, "name": name, "content": content, "is_error": False}

    blocks = [
        {"type": "thinking", "thinking": "I look.", "summaries": [{"summary": "Looking"}], "cut_off": False},
        {"type": "text", "text": "Let me see."},
        use("view", "toolu_1", path="/a"),
        result("view", "toolu_1", [{"type": "text", "text": "one", "uuid": "x"}, {"type": "image", "file_uuid": "f"}]),
        use("web search", None, query="b"),
        result("web search", None, "two"),
        {"type": "text", "text": "Done."},
        use("artifacts", "toolu_3", id="snake"),
    ]
    return make(
        [
            say("human", "h1", NO_PARENT, "Look"),
            say("assistant", "a1", "h1", "Let me see.\n\nDone.", content=blocks),
            say("human", "h2", "a1", "Thanks"),
        ],
        current_leaf_message_uuid="h2",
    )


def with_files() -> dict[str, Any]:
    attachments = [
        {"file_name": "notes.txt", "file_type": "txt", "file_size": 5, "extracted_content": "Milk\nEggs"},
        {"file_name": "scan.pdf", "file_type": "pdf", "file_size": 5, "extracted_content": ""},
    ]
    files = [{"file_uuid": "1", "file_name": "notes.txt"}, {"file_uuid": "2", "file_name": "photo.png"}]
    odd = [{"type": "text", "text": "Look"}, {"type": "voice_note", "title": "Note", "text": "Hm"}]
    return make(
        [
            say("human", "h1", NO_PARENT, "Read it", attachments=attachments, files=files),
            say("assistant", "a1", "h1", "", content=odd),
        ]
    )


def old() -> dict[str, Any]:
    """Return a conversation as of 2023: no parents, no content, no types."""
    messages = [
        {"uuid": "1", "text": "Hello", "sender": "human", "created_at": TIME, "attachments": []},
        {"uuid": "2", "text": "Hi.", "sender": "assistant", "created_at": TIME, "attachments": []},
        {"uuid": "3", "text": "", "sender": "human", "created_at": TIME, "attachments": []},
        {"uuid": "4", "text": "Still here.", "sender": "assistant", "created_at": TIME, "attachments": []},
    ]
    return make(messages, name="")


def test_the_tree_follows_parents_with_several_first_messages() -> None:
    read = read_one(read_claude_export, [branched()])

    assert draw(read) == [
        ("h1", None, "user", "Hello"),
        ("a1", "h1", "assistant", "Hi."),
        ("h2", "a1", "user", "Go on"),
        ("a2", "h1", "assistant", "Hey."),
        ("h1b", None, "user", "Hullo"),
    ]
    assert (read.id, read.title, read.head, read.notes) == ("c1", "Skills", "a2", [])
    assert read.messages[0].created_at == datetime(2026, 3, 7, 12, 4, 42, 551_130, UTC)
    assert read_one(read_claude_export, [{**branched(), "current_leaf_message_uuid": "h2"}]).head == "h2"


def test_tool_calls_and_their_results_are_messages_of_their_own() -> None:
    read = read_one(read_claude_export, [with_tools()])

    second = read.messages[3].message["tool_calls"][0]["id"]
    assert [(said.id, said.parent, said.message) for said in read.messages] == [
        ("h1", None, {"role": "user", "content": "Look"}),
        (
            "a1/1",
            "h1",
            {
                "role": "assistant",
                "content": "Let me see.",
                "reasoning_content": "I look.",
                "tool_calls": [
                    {"id": "toolu_1", "type": "function", "function": {"name": "view", "arguments": '{"path": "/a"}'}}
                ],
            },
        ),
        (
            "a1/2",
            "a1/1",
            {
                "role": "tool",
                "tool_call_id": "toolu_1",
                "content": 'one\n{"type": "image", "file_uuid": "f"}',
            },
        ),
        (
            "a1/3",
            "a1/2",
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": second,
                        "type": "function",
                        "function": {"name": "web_search", "arguments": '{"query": "b"}'},
                    }
                ],
            },
        ),
        ("a1/4", "a1/3", {"role": "tool", "tool_call_id": second, "content": "two"}),
        ("a1", "a1/4", {"role": "assistant", "content": 'Done.\n\n[tool call artifacts]\n{"id": "snake"}'}),
        ("h2", "a1", {"role": "user", "content": "Thanks"}),
    ]
    assert len(second) <= 40


def test_the_text_of_attachments_is_kept_and_other_files_are_named() -> None:
    read = read_one(read_claude_export, [with_files()])

    assert [said.message for said in read.messages] == [
        {
            "role": "user",
            "content": "Read it\n\n[attachment notes.txt]\nMilk\nEggs\n\n[attachment scan.pdf]\n\n[file photo.png]",
        },
        {
            "role": "assistant",
            "content": "Look\n\n[voice_note]\nHm",
            "convstore_imported": {"content": [{"type": "voice_note", "title": "Note", "text": "Hm"}]},
        },
    ]
    assert read.notes == ["left out: 1 attachments without their text, 1 files that the export does not have"]


def test_an_old_export_without_parents_is_one_path() -> None:
    read = read_one(read_claude_export, [old()])

    assert draw(read) == [
        ("1", None, "user", "Hello"),
        ("2", "1", "assistant", "Hi."),
        ("4", "2", "assistant", "Still here."),
    ]
    assert (read.title, read.head) == (None, "4")


def test_a_zip_a_folder_and_one_conversation_are_read(tmp_path: Path) -> None:
    data = json.dumps([branched()]).encode()
    (tmp_path / "conversations.json").write_bytes(data)
    (tmp_path / "users.json").write_text("[]")

    with open_export_files(tmp_path) as files:
        (from_folder,) = read_claude_export(files)
    (from_zip,) = read_bytes(
        read_claude_export, make_zip({"data-2026/conversations.json": data, "__MACOSX/conversations.json": b"junk"})
    )

    assert from_zip == from_folder == read_one(read_claude_export, branched())


def test_what_is_no_conversation_is_a_problem() -> None:
    results = read_json(read_claude_export, [make([]), {"uuid": "x"}, [], branched(), branched()])

    assert [result.reason for result in results if isinstance(result, Problem)] == [
        "it has no messages",
        "it is not a conversation: it has no `chat_messages`",
        'the conversation "c1" is in the export twice; the first one is taken',
    ]


def samples() -> list[dict[str, Any]]:
    made = [branched(), with_tools(), with_files(), old()]
    return [{**sample, "uuid": f"c{number}"} for number, sample in enumerate(made)]


def test_damaged_json_gives_problems_and_whole_conversations() -> None:
    check_damaged(read_claude_export, json.dumps(samples()).encode(), seed=11)


def test_values_of_other_types_give_problems_and_whole_conversations() -> None:
    check_odd_values(read_claude_export, samples(), seed=12)


def test_most_of_a_damaged_export_is_still_read() -> None:
    data = json.dumps(samples() * 1).encode()
    broken = data.replace(b'"toolu_1"', b"toolu_1", 1)

    results = read_bytes(read_claude_export, broken)

    assert [result.id if isinstance(result, ImportedConversation) else "problem" for result in results] == [
        "c0",
        "problem",
        "c2",
        "c3",
    ]
