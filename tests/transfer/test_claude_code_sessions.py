"""Test that session files of Claude Code are read as the tree that they are."""

import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from convstore.transfer.claude_code_sessions import read_claude_code_sessions
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.source_lines import prepend
from tests.transfer.damage import change_values, check_damaged, check_whole, list_rows, read_all

SESSION = "5b0e2f6a-1111-4222-8333-444455556666"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def record(kind: str, uuid: str, parent: str | None, **fields: Any) -> dict[str, Any]:
    return {
        "parentUuid": parent,
        "isSidechain": False,
        "userType": "external",
        "cwd": "/home/ann/project",
        "sessionId": SESSION,
        "version": "2.1.173",
        "gitBranch": "main",
        "type": kind,
        "uuid": uuid,
        "timestamp": "2026-06-15T10:00:01.000Z",
    } | fields


def user(uuid: str, parent: str | None, content: Any, **fields: Any) -> dict[str, Any]:
    return record("user", uuid, parent, message={"role": "user", "content": content}, **fields)


def reply(uuid: str, parent: str | None, message_id: str, *blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    message = {"id": message_id, "type": "message", "role": "assistant", "model": "claude-opus-4-5", "content": blocks}
    return record("assistant", uuid, parent, message=message, requestId="req_1", **fields)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def tool_use(call: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call, "name": "Bash", "input": arguments}


def tool_result(call: str, content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": content}


def called(call: str, **arguments: Any) -> dict[str, Any]:
    return {"id": call, "type": "function", "function": {"name": "Bash", "arguments": json.dumps(arguments)}}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in records))
    return path


def read(folder: Path, *records: Any) -> list[ImportedConversation]:
    return read_all(read_claude_code_sessions(write(folder / f"{SESSION}.jsonl", *records)))


def test_a_session_is_a_conversation_with_its_replies_joined_from_their_records(tmp_path: Path) -> None:
    (found,) = read(
        tmp_path,
        {"type": "file-history-snapshot", "messageId": "u1", "snapshot": {}},
        user("u1", None, "List the files."),
        reply("a1", "u1", "msg_1", {"type": "thinking", "thinking": "They want a list.", "signature": "x"}),
        reply("a2", "a1", "msg_1", text("I will look.")),
        reply("a3", "a2", "msg_1", tool_use("t1", command="ls")),
        user("r1", "a3", [tool_result("t1", [text("a.txt"), text("b.txt")])], toolUseResult={"stdout": "a.txt"}),
        record("system", "s1", "r1", subtype="turn_duration", durationMs=5),
        reply("a4", "s1", "msg_2", text("Two files.")),
        {"type": "ai-title", "aiTitle": "Listing files", "sessionId": SESSION},
    )

    assert found.id == SESSION
    assert list_rows(found) == [
        ("u1", None, {"role": "user", "content": "List the files."}),
        (
            "a3",
            "u1",
            {
                "role": "assistant",
                "content": "I will look.",
                "reasoning_content": "They want a list.",
                "tool_calls": [called("t1", command="ls")],
            },
        ),
        ("r1", "a3", {"role": "tool", "tool_call_id": "t1", "content": "a.txt\nb.txt"}),
        ("a4", "r1", {"role": "assistant", "content": "Two files."}),
    ]
    assert (found.head, found.title, found.model) == ("a4", "Listing files", "claude-opus-4-5")
    assert found.created_at == datetime(2026, 6, 15, 10, 0, 1, tzinfo=UTC)
    assert found.metadata == {"cwd": "/home/ann/project", "git_branch": "main", "program_version": "2.1.173"}
    assert found.notes == []
    assert [message.model for message in found.messages] == [None, "claude-opus-4-5", None, "claude-opus-4-5"]


def test_results_that_come_between_the_calls_of_a_reply_follow_the_whole_reply(tmp_path: Path) -> None:
    records = [
        user("u1", None, "Both, please."),
        reply("a1", "u1", "msg_1", tool_use("t1", command="ls")),
        user("r1", "a1", [tool_result("t1", "one")]),
        reply("a2", "a1", "msg_1", tool_use("t2", command="pwd")),
        user("r2", "a2", [tool_result("t2", "two")]),
        reply("a3", "r2", "msg_2", text("Done.")),
    ]
    (early,) = read(tmp_path, *records[:3])
    (found,) = read(tmp_path, *records)

    assert list_rows(found) == [
        ("u1", None, {"role": "user", "content": "Both, please."}),
        (
            "a2",
            "u1",
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [called("t1", command="ls"), called("t2", command="pwd")],
            },
        ),
        ("r1+a2", "a2", {"role": "tool", "tool_call_id": "t1", "content": "one"}),
        ("r2", "r1+a2", {"role": "tool", "tool_call_id": "t2", "content": "two"}),
        ("a3", "r2", {"role": "assistant", "content": "Done."}),
    ]
    # An earlier version had the result after a shorter reply; neither may take the other's id.
    assert [message.id for message in early.messages] == ["u1", "a1", "r1"]


def test_what_follows_a_reply_by_way_of_a_tools_progress_follows_its_results(tmp_path: Path) -> None:
    (found,) = read(
        tmp_path,
        user("u1", None, "Go."),
        reply("a1", "u1", "msg_1", tool_use("t1", command="ls")),
        user("r1", "a1", [tool_result("t1", "one")]),
        record("progress", "p1", "a1", data={"type": "hook_progress"}),
        reply("a2", "p1", "msg_2", text("Done.")),
    )

    assert [(message.id, message.parent) for message in found.messages] == [
        ("u1", None), ("a1", "u1"), ("r1", "a1"), ("a2", "r1"),
    ]  # fmt: skip


def test_an_agent_that_only_some_of_its_records_name_is_one_conversation(tmp_path: Path) -> None:
    main, agent = read(
        tmp_path,
        reply("a1", "before", "msg_1", {"type": "tool_use", "id": "t1", "name": "Task", "input": {}}),
        user("r1", "a1", [tool_result("t1", "Done.")], agentId="ag1"),
        user("x1", None, "Survey.", isSidechain=True, agentId="ag1"),
        reply("x2", "x1", "msg_x", text("Surveyed."), isSidechain=True),
    )

    assert [message.id for message in main.messages] == ["a1", "r1"]
    assert [message.id for message in agent.messages] == ["x1", "x2"]
    assert agent.metadata["agent_of_call"] == "t1"


def test_a_call_that_was_made_again_is_a_branch(tmp_path: Path) -> None:
    (found,) = read(
        tmp_path,
        user("u1", None, "Go."),
        reply("a1", "u1", "msg_1", tool_use("t1", command="ls")),
        user("r1", "a1", [tool_result("t1", "interrupted")]),
        user("r2", "a1", [tool_result("t1", "fine")]),
        reply("a2", "r2", "msg_2", text("Done.")),
    )

    assert [(message.id, message.parent) for message in found.messages] == [
        ("u1", None), ("a1", "u1"), ("r1", "a1"), ("r2", "a1"), ("a2", "r2"),
    ]  # fmt: skip


def test_a_rewound_session_keeps_both_branches_and_goes_on_with_the_last(tmp_path: Path) -> None:
    (found,) = read(
        tmp_path,
        user("u1", None, "Start"),
        reply("a1", "u1", "msg_1", text("Ready")),
        user("b1", "a1", "First attempt"),
        reply("c1", "b1", "msg_2", text("First answer")),
        user("b2", "a1", "Second attempt"),
        reply("c2", "b2", "msg_3", text("Second answer")),
    )

    assert [(message.id, message.parent) for message in found.messages] == [
        ("u1", None), ("a1", "u1"), ("b1", "a1"), ("c1", "b1"), ("b2", "a1"), ("c2", "b2"),
    ]  # fmt: skip
    assert found.head == "c2"


def test_a_compacted_session_goes_on_after_its_summary(tmp_path: Path) -> None:
    boundary = record(
        "system", "cb", None, subtype="compact_boundary", logicalParentUuid="a1", content="Conversation compacted",
        compactMetadata={"trigger": "auto", "preTokens": 150000},
    )  # fmt: skip
    (found,) = read(
        tmp_path,
        user("u1", None, "Start"),
        reply("a1", "u1", "msg_1", text("Ready")),
        boundary,
        user("cs", "cb", [text("This session is being continued …")], isCompactSummary=True),
        reply("a2", "cs", "msg_2", text("Going on")),
    )

    assert [(message.id, message.parent) for message in found.messages] == [
        ("u1", None), ("a1", "u1"), ("cs", "a1"), ("a2", "cs"),
    ]  # fmt: skip


def test_a_boundary_that_names_a_later_record_follows_the_one_before_it(tmp_path: Path) -> None:
    (found,) = read(
        tmp_path,
        user("u1", None, "Start"),
        record("system", "cb", None, subtype="compact_boundary", logicalParentUuid="a9"),
        user("cs", "cb", "Summary", isCompactSummary=True),
        reply("a9", "cs", "msg_9", text("Kept")),
    )

    assert [(message.id, message.parent) for message in found.messages] == [("u1", None), ("cs", "u1"), ("a9", "cs")]


def test_agents_are_conversations_of_their_own_that_name_their_session_and_call(tmp_path: Path) -> None:
    main, agent, old_agent = read(
        tmp_path,
        user("u1", None, "Survey it."),
        reply("a1", "u1", "msg_1", {"type": "tool_use", "id": "t1", "name": "Agent", "input": {"prompt": "Survey."}}),
        user("x1", None, "Survey.", isSidechain=True, agentId="ag1"),
        reply("x2", "x1", "msg_x", text("Surveyed."), isSidechain=True, agentId="ag1"),
        user("y1", None, "Old.", isSidechain=True),
        reply("y2", "y1", "msg_y", text("Older."), isSidechain=True),
        user("r1", "a1", [tool_result("t1", "Surveyed.")], toolUseResult={"agentId": "ag1", "status": "completed"}),
    )

    assert [message.id for message in main.messages] == ["u1", "a1", "r1"]
    assert agent.id == f"{SESSION}/ag1"
    assert list_rows(agent) == [
        ("x1", None, {"role": "user", "content": "Survey."}),
        ("x2", "x1", {"role": "assistant", "content": "Surveyed."}),
    ]
    assert agent.metadata == {
        "cwd": "/home/ann/project",
        "git_branch": "main",
        "program_version": "2.1.173",
        "agent": "ag1",
        "agent_of": SESSION,
        "agent_of_call": "t1",
    }
    assert (old_agent.id, [message.id for message in old_agent.messages]) == (f"{SESSION}/y1", ["y1", "y2"])


def test_a_folder_is_read_with_its_agents_files(tmp_path: Path) -> None:
    folder = tmp_path / SESSION / "subagents"
    folder.mkdir(parents=True)
    write(tmp_path / f"{SESSION}.jsonl", user("u1", None, "Hi"))
    write(folder / "agent-ag1.jsonl", user("x1", None, "Survey.", isSidechain=True, agentId="ag1"))
    write(tmp_path / "index.jsonl", {"type": "summary", "summary": "Elsewhere", "leafUuid": "z"})

    found = read_all(read_claude_code_sessions(tmp_path))

    assert sorted(conversation.id for conversation in found) == [SESSION, f"{SESSION}/ag1"]


def test_pictures_documents_and_unknown_blocks_are_kept(tmp_path: Path) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    (found,) = read(
        tmp_path,
        user("u1", None, [{"type": "image", "source": source}, text("What is it?")]),
        reply("a1", "u1", "msg_1", {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}),
        user(
            "u2", "a1", [{"type": "document", "source": source | {"media_type": "application/pdf"}, "title": "a.pdf"}]
        ),
    )

    assert [message.message["content"] for message in found.messages] == [
        [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
            {"type": "text", "text": "What is it?"},
        ],
        '[server_tool_use] {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}',
        [{"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PIXEL}"}}],
    ]


def test_a_picture_above_the_limit_is_named_and_left_out(tmp_path: Path) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "A" * (28 * 2**20)}
    (found,) = read(tmp_path, user("u1", None, [{"type": "image", "source": source}, text("What is it?")]))

    assert found.messages[0].message["content"][0] == {"type": "text", "text": "[image]"}
    assert found.notes == ["an attachment is larger than 20 MB"]


def test_prompts_typed_while_the_model_worked_are_kept_and_notices_are_not(tmp_path: Path) -> None:
    queued = {"type": "queued_command", "commandMode": "prompt", "prompt": "and the tests"}
    notice = queued | {"commandMode": "task-notification"}
    (found,) = read(
        tmp_path,
        user("u1", None, "Check it."),
        record("attachment", "q1", "u1", attachment=queued),
        record("attachment", "q2", "q1", attachment=notice),
        record("attachment", "q3", "q2", attachment={"type": "skill_listing", "content": "…"}),
        reply("e1", "q3", "msg_1", text("API Error: 401"), isApiErrorMessage=True),
        reply("a1", "e1", "msg_2", text("Checked.")),
    )

    assert list_rows(found) == [
        ("u1", None, {"role": "user", "content": "Check it."}),
        ("q1", "u1", {"role": "user", "content": "and the tests"}),
        ("a1", "q1", {"role": "assistant", "content": "Checked."}),
    ]
    assert found.notes == ["a notice of the program, such as an API error, is left out"]


def test_the_title_is_a_users_then_the_programs_then_a_summary(tmp_path: Path) -> None:
    first = user("u1", None, "Hi")
    foreign = {"type": "summary", "summary": "Another session", "leafUuid": "elsewhere"}
    own = {"type": "summary", "summary": "This session", "leafUuid": "u1"}
    custom = {"type": "custom-title", "customTitle": "Mine", "sessionId": SESSION}
    ai = {"type": "ai-title", "aiTitle": "Its", "sessionId": SESSION}

    assert read(tmp_path, foreign, first)[0].title == "Another session"
    assert read(tmp_path, own, foreign, first)[0].title == "This session"
    assert read(tmp_path, own, first, ai)[0].title == "Its"
    assert read(tmp_path, first, custom, ai)[0].title == "Mine"


def test_a_longer_version_of_a_session_keeps_the_ids_of_the_shorter(tmp_path: Path) -> None:
    records = [
        user("u1", None, "Start"),
        reply("a1", "u1", "msg_1", text("Ready"), tool_use("t1", command="ls")),
        user("r1", "a1", [tool_result("t1", "one")]),
        reply("a2", "r1", "msg_2", text("Good")),
        user("u2", "a2", "More"),
    ]
    versions = [list_rows(read(tmp_path, *records[:count])[0]) for count in range(1, 6)]

    assert all(shorter == versions[-1][: len(shorter)] for shorter in versions)


def test_a_bad_line_is_a_problem_with_its_place_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / f"{SESSION}.jsonl"
    lines = [
        json.dumps(user("u1", None, "Start")),
        "{not json}",
        "42",
        json.dumps(user("u2", "u1", None)),
        "[" * 100_000,
        '{"type": "user", "n": ' + "9" * 5000 + "}",
        json.dumps(reply("a1", "lost", "msg_1", text("Ready"))),
    ]
    path.write_text("\n".join(lines) + "\n")

    *problems, found = check_whole(read_claude_code_sessions(path))

    assert problems == [
        Problem(f"{path}, line 2", "is not JSON: Expecting property name enclosed in double quotes at character 2"),
        Problem(f"{path}, line 3", "is not a record of Claude Code"),
        Problem(f"{path}, line 4", "its message has no content"),
        Problem(f"{path}, line 5", "is nested more than 100 levels deep"),
        Problem(f"{path}, line 6", "holds a number of more than 4300 digits"),
    ]
    assert isinstance(found, ImportedConversation)
    assert [(message.id, message.parent) for message in found.messages] == [("u1", None), ("a1", "u1")]
    assert found.notes == [
        "a message follows one that the file does not have, and was put after the one before it",
    ]


def test_a_line_that_is_too_long_is_refused_by_its_limit(tmp_path: Path) -> None:
    path = tmp_path / f"{SESSION}.jsonl"
    first = json.dumps(user("u1", None, "Start")).encode()
    path.write_bytes(first + b"\n" + b"x" * (64 * 2**20 + 10) + b"\n" + first.replace(b"u1", b"u2") + b"\n")

    problem, found = read_claude_code_sessions(path)

    assert problem == Problem(f"{path}, line 2", "the line is longer than 64 MB")
    assert isinstance(found, ImportedConversation)
    assert [message.id for message in found.messages] == ["u1", "u2"]


def test_a_last_line_that_is_still_written_is_no_problem(tmp_path: Path) -> None:
    path = write(tmp_path / f"{SESSION}.jsonl", user("u1", None, "Start"))
    with path.open("a") as stream:
        stream.write('{"type": "assis')

    (found,) = read_all(read_claude_code_sessions(path))

    assert found.notes == ["the last line is not complete yet"]


def test_a_stream_and_a_compressed_file_are_read_too(tmp_path: Path) -> None:
    data = (json.dumps(user("u1", None, "Start")) + "\n").encode()
    path = tmp_path / "session.jsonl.gz"
    path.write_bytes(gzip.compress(data))

    (streamed,) = read_all(read_claude_code_sessions(io.BytesIO(data)))
    stream = io.BytesIO(data)
    (begun,) = read_all(read_claude_code_sessions(prepend(stream.read(10), stream)))
    (packed,) = read_all(read_claude_code_sessions(path))

    assert streamed.id == packed.id == SESSION
    assert begun == streamed


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "nothing.jsonl"

    assert list(read_claude_code_sessions(path)) == [Problem(str(path), "cannot be opened: No such file or directory")]


def test_damaged_sessions_give_problems_and_whole_conversations(tmp_path: Path) -> None:
    path = write(
        tmp_path / f"{SESSION}.jsonl",
        user("u1", None, "Both, please."),
        reply("a1", "u1", "msg_1", text("Yes"), tool_use("t1", command="ls")),
        user("r1", "a1", [tool_result("t1", "one")], toolUseResult={"agentId": "ag1"}),
        reply("a2", "a1", "msg_1", tool_use("t2", command="pwd")),
        user("r2", "a2", [tool_result("t2", [text("two")])]),
        user("x1", None, "Survey.", isSidechain=True, agentId="ag1"),
        record("system", "cb", None, subtype="compact_boundary", logicalParentUuid="r2"),
        user("cs", "cb", "Summary", isCompactSummary=True),
        reply("a3", "cs", "msg_2", {"type": "thinking", "thinking": "Hm"}, text("Done.")),
    )

    data = path.read_bytes()
    problems, conversations = check_damaged(path, data, read_claude_code_sessions)

    assert problems > 100
    assert conversations > 100

    problems, conversations = check_damaged(path, data, read_claude_code_sessions, change_values)

    assert problems > 10
    assert conversations > 200
