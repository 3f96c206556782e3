"""Test that a conversation written as a session of Claude Code or Codex is read back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convstore.db.message_writes import make_child
from convstore.messages.token_estimate import estimate_message
from convstore.transfer.claude_code_sessions import read_claude_code_sessions
from convstore.transfer.codex_sessions import read_codex_sessions
from convstore.transfer.imported import ImportedConversation
from convstore.transfer.writers.claude_code_writer import name_project_folder, write_claude_code_session
from convstore.transfer.writers.codex_writer import write_codex_session
from convstore.transfer.writers.session_file import SessionFile
from convstore.values.identifiers import Position, Seq
from convstore.values.results import Conversation, MessageRecord
from tests.pure.strategies import any_message
from tests.transfer.damage import read_all

Message = dict[str, Any]
BEGIN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
FOLDER = "/home/ann/my_project.v2"
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def place(messages: Sequence[Message]) -> list[MessageRecord]:
    records: list[MessageRecord] = []
    for number, message in enumerate(messages, 1):
        parent = records[-1] if records else None
        records.append(make_child(estimate_message, parent, Seq(number), message, None, BEGIN))
    return records


def make_conversation(title: str | None = None) -> Conversation:
    return Conversation(
        id="games", owner="", name=None, title=title, settings={}, metadata={}, window={}, pins=(), forked_from=None,
        forked_at=None, length=Position(1), head_seq=Seq(1), model="m", created_at=BEGIN, updated_at=BEGIN,
    )  # fmt: skip


def write_claude(messages: Sequence[Message], title: str | None = None) -> SessionFile:
    return write_claude_code_session(make_conversation(title), place(messages), FOLDER)


def write_codex(messages: Sequence[Message], title: str | None = None) -> SessionFile:
    return write_codex_session(make_conversation(title), place(messages), FOLDER)


def read_back(session: SessionFile, home: Path) -> ImportedConversation:
    path = home / session.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in session.lines), encoding="utf-8")
    read = read_claude_code_sessions if session.path.startswith("projects/") else read_codex_sessions
    (found,) = read_all(read(path))
    assert (found.id, found.notes, found.metadata["cwd"]) == (session.id, [], FOLDER)
    assert [one.parent for one in found.messages] == [None, *(one.id for one in found.messages[:-1])]
    return found


def read_messages(session: SessionFile, home: Path) -> list[Message]:
    return [normalise(dict(one.message)) for one in read_back(session, home).messages]


def normalise(message: Message) -> Message:
    """Return a message with its arguments parsed and without nulls: both forms write them in their own way."""
    message = {key: value for key, value in message.items() if value is not None}
    for call in message.get("tool_calls", []):
        if "function" in call:
            call["function"] = {**call["function"], "arguments": json.loads(call["function"]["arguments"] or "{}")}
    return message


def call(id: str, **arguments: Any) -> Message:
    return {"id": id, "type": "function", "function": {"name": "look_up", "arguments": json.dumps(arguments)}}


def result(id: str, content: Any) -> Message:
    return {"role": "tool", "tool_call_id": id, "content": content}


CALLS: list[Message] = [
    {"role": "user", "content": "Where were the games, and what was the weather?"},
    {
        "role": "assistant",
        "content": "I will look.",
        "tool_calls": [call("call_1", year=2008), call("call_2", q="é\n")],
    },
    result("call_1", "Beijing"),
    result("call_2", [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": PIXEL}}]),
    {"role": "assistant", "content": None, "tool_calls": [call("call_3")]},
    result("call_3", "sunny"),
    {"role": "assistant", "content": "In Beijing 🏅; it was sunny."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "And this?"},
            {"type": "image_url", "image_url": {"url": PIXEL}},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        ],
    },
    {"role": "assistant", "content": "A pixel.\n\n```\nx\n```"},
]


@pytest.mark.parametrize("write", [write_claude, write_codex])
def test_calls_results_and_images_come_back_as_they_were(
    tmp_path: Path, write: Callable[[Sequence[Message]], SessionFile]
) -> None:
    session = write(CALLS)
    assert session.losses == []
    assert read_messages(session, tmp_path) == [normalise(json.loads(json.dumps(one))) for one in CALLS]


@pytest.mark.parametrize("write", [write_claude, write_codex])
def test_real_dialogues_come_back_as_they_were(
    shared_data: Path, tmp_path: Path, write: Callable[[Sequence[Message]], SessionFile]
) -> None:
    with (shared_data / "crosswoz_val.jsonl").open(encoding="utf-8") as lines:
        dialogues = [json.loads(line)["messages"] for line in lines][:100]
    assert len(dialogues) == 100
    for dialogue in dialogues:
        session = write(dialogue)
        assert (session.losses, read_messages(session, tmp_path)) == ([], dialogue)


def test_the_titles_and_the_systems_messages_go_where_each_program_has_a_place(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        {"role": "developer", "content": "Be polite."},
        {"role": "assistant", "content": "In Beijing."},
    ]
    codex = write_codex(messages, "Olympics")
    assert read_messages(codex, tmp_path) == [{"role": "developer", "content": "Be brief."}, *messages[1:]]
    assert codex.losses == [
        "a system message is carried as a developer message: Codex sends no system messages",
        "the title is left out: Codex keeps titles elsewhere",
    ]
    claude = write_claude(messages, "Olympics")
    found = read_back(claude, tmp_path)
    assert found.title == "Olympics"
    assert [one.message["role"] for one in found.messages] == ["user", "user", "user", "assistant"]
    assert found.messages[0].message["content"] == "<system-reminder>\nBe brief.\n</system-reminder>"
    assert claude.losses == [
        "a system message is carried as a reminder to the model: a session has no system messages (2 times)"
    ]


def test_what_cannot_be_carried_is_said_and_the_rest_is_carried(tmp_path: Path) -> None:
    messages: list[Message] = [
        {"role": "assistant", "content": "Hello.", "reasoning_content": "hm", "annotations": [{"a": 1}]},
        {"role": "user", "name": "ann", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]},
        {"role": "user", "content": "Go on."},
        {"role": "assistant", "tool_calls": [call("a"), {**call("b/1"), "function": {"name": "f", "arguments": "{"}}]},
        result("a", "done"),
        result("nobody", "lost"),
        {"role": "user", "content": ""},
        {"role": "assistant", "content": None, "audio": {"id": "x", "transcript": "Said."}},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "function_call": {"name": "old", "arguments": "{}"}},
        {"role": "function", "name": "old", "content": "new"},
    ]  # fmt: skip
    claude = write_claude(messages)
    found = read_messages(claude, tmp_path)
    roles = "user assistant user assistant tool tool user assistant assistant assistant tool"
    assert " ".join(one["role"] for one in found) == roles
    assert found[3]["tool_calls"][1] == {
        "id": "b_1", "type": "function", "function": {"name": "f", "arguments": {"arguments": "{"}}
    }  # fmt: skip
    assert "No result" in found[5]["content"]
    assert [found[number].get("content") for number in (6, 7, 8, 10)] == ["lost", "Said.", "No.", "new"]
    assert len(claude.losses) == 10
    codex = write_codex(messages)
    roles = "assistant user assistant tool tool assistant assistant tool"
    assert " ".join(one.message["role"] for one in read_back(codex, tmp_path).messages) == roles
    for words in (
        "reasoning",
        "`annotations`",
        "`name`",
        "`input_audio`",
        "audio is left",
        "without content",
        "not before",
    ):
        assert sum(words in loss for loss in claude.losses) == 1, words
        assert sum(words in loss for loss in codex.losses) == 1, words


def test_custom_tools_stay_custom_in_codex(tmp_path: Path) -> None:
    custom = {"id": "c", "type": "custom", "custom": {"name": "apply_patch", "input": "*** Begin"}}
    messages: list[Message] = [
        {"role": "user", "content": "Patch it."},
        {"role": "assistant", "tool_calls": [custom]},
        result("c", "done"),
    ]
    assert read_messages(write_codex(messages), tmp_path) == messages


def test_a_session_is_named_by_what_is_in_it_and_by_its_folder() -> None:
    session = write_claude(CALLS)
    assert session.path == f"projects/-home-ann-my-project-v2/{session.id}.jsonl"
    assert name_project_folder("/a b/ü") == "-a-b--"
    assert write_claude(CALLS) == session
    assert len({session.id, write_claude(CALLS[:-1]).id, write_codex(CALLS).id}) == 3
    codex = write_codex(CALLS)
    assert codex.path == f"sessions/2026/03/04/rollout-2026-03-04T05-06-07-{codex.id}.jsonl"
    uuids = [json.loads(line)["uuid"] for line in session.lines]
    assert len(set(uuids)) == len(uuids)


@settings(max_examples=60)
@given(st.lists(any_message, min_size=1, max_size=5))
def test_any_messages_are_written_as_lines_that_every_program_reads(messages: list[Message]) -> None:
    for session in (write_claude(messages), write_codex(messages)):
        for line in session.lines:
            record = json.loads(line.encode())
            assert isinstance(record["timestamp"], str)
            json.dumps(record, ensure_ascii=False).encode()
