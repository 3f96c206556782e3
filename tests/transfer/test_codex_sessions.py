"""Test that session files of Codex are read, of all its releases."""

import gzip
import importlib
import json
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from convstore.transfer.codex_sessions import read_codex_sessions
from convstore.transfer.imported import ImportedConversation, Problem
from tests.transfer.damage import change_values, check_damaged, check_whole, read_all

SESSION = "019f5c5a-eb02-7ff0-90af-653b66eba9f4"
NAME = f"rollout-2026-01-02T03-04-05-{SESSION}.jsonl"
ENVIRONMENT = "<environment_context>\n  <cwd>/home/ada/example</cwd>\n</environment_context>"


def line(kind: str, **payload: Any) -> dict[str, Any]:
    return {"timestamp": "2026-01-02T03:04:06.000Z", "type": kind, "payload": payload}


def item(kind: str, **payload: Any) -> dict[str, Any]:
    return line("response_item", type=kind, **payload)


def said(role: str, *texts: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return item("message", role=role, content=[{"type": kind, "text": text} for text in texts])


def call(id: str, **arguments: Any) -> dict[str, Any]:
    return item("function_call", name="exec_command", arguments=json.dumps(arguments), call_id=id)


def output(id: str, text: Any) -> dict[str, Any]:
    return item("function_call_output", call_id=id, output=text)


def called(id: str, **arguments: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "exec_command", "arguments": json.dumps(arguments)}}


META = line(
    "session_meta",
    id=SESSION,
    session_id=SESSION,
    timestamp="2026-01-02T03:04:05.000Z",
    cwd="/home/ada/example",
    originator="codex_cli_rs",
    cli_version="0.144.3",
    source="cli",
    base_instructions={"text": "You are Codex."},
    git={"commit_hash": "abc", "branch": "main"},
)
CONTEXT = line("turn_context", cwd="/home/ada/example", model="gpt-5-codex", approval_policy="never")


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(folder: Path, *records: Any) -> ImportedConversation:
    (found,) = read_all(read_codex_sessions(write(folder / NAME, *records)))
    return found


def contents(conversation: ImportedConversation) -> list[Any]:
    return [message.message for message in conversation.messages]


def test_a_session_is_a_conversation_with_whole_replies(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        META,
        line("event_msg", type="task_started", turn_id="t1"),
        said("developer", "<permissions instructions>Ask.</permissions instructions>"),
        said("user", ENVIRONMENT),
        CONTEXT,
        said("user", "List the files."),
        line("event_msg", type="user_message", message="List the files."),
        item("reasoning", summary=[{"type": "summary_text", "text": "I look first."}], encrypted_content="gAAA"),
        said("assistant", "I will look."),
        call("c1", cmd="ls"),
        call("c2", cmd="pwd"),
        output("c1", "a.txt\nb.txt"),
        output("c2", [{"type": "input_text", "text": "/home/ada/example"}]),
        line("event_msg", type="token_count", info=None),
        line("event_msg", type="agent_message", message="Two files."),
        said("assistant", "Two files."),
        line("event_msg", type="task_complete", turn_id="t1"),
    )

    assert contents(found) == [
        {"role": "developer", "content": "<permissions instructions>Ask.</permissions instructions>"},
        {"role": "user", "content": ENVIRONMENT},
        {"role": "user", "content": "List the files."},
        {
            "role": "assistant",
            "content": "I will look.",
            "reasoning_content": "I look first.",
            "tool_calls": [called("c1", cmd="ls"), called("c2", cmd="pwd")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a.txt\nb.txt"},
        {"role": "tool", "tool_call_id": "c2", "content": "/home/ada/example"},
        {"role": "assistant", "content": "Two files."},
    ]
    ids = [message.id for message in found.messages]
    assert [message.parent for message in found.messages] == [None, *ids[:-1]]
    assert (found.id, found.head, found.model) == (SESSION, ids[-1], "gpt-5-codex")
    assert found.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert [message.model for message in found.messages] == [None, None, None, "gpt-5-codex", None, None, "gpt-5-codex"]
    assert found.metadata == {
        "cwd": "/home/ada/example",
        "program_version": "0.144.3",
        "originator": "codex_cli_rs",
        "git_branch": "main",
    }
    assert found.notes == []


def test_the_bare_form_of_2025_is_read(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {"id": SESSION, "timestamp": "2025-08-18T01:16:13.522Z", "instructions": None, "git": {"branch": "main"}},
        {"record_type": "state"},
        {"type": "message", "id": None, "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Greet."}]},
        {"type": "function_call", "id": "fc_1", "name": "shell", "arguments": '{"command": ["ls"]}', "call_id": "c1"},
        {"record_type": "state"},
        {"type": "function_call_output", "call_id": "c1", "output": '{"output": "a", "metadata": {"exit_code": 0}}'},
        {
            "type": "local_shell_call",
            "call_id": "c2",
            "status": "completed",
            "action": {"type": "exec", "command": ["pwd"]},
        },
        {"type": "function_call_output", "call_id": "c2", "output": {"content": "/work", "success": True}},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
    )

    assert found.id == SESSION
    assert found.created_at == datetime(2025, 8, 18, 1, 16, 13, 522000, tzinfo=UTC)
    assert found.metadata == {"git_branch": "main"}
    assert contents(found) == [
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Greet.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": '{"command": ["ls"]}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"output": "a", "metadata": {"exit_code": 0}}'},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"name": "local_shell", "arguments": '{"type": "exec", "command": ["pwd"]}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "/work"},
        {"role": "assistant", "content": "hi"},
    ]


def test_custom_tools_and_pictures_are_kept_and_other_items_are_named(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        META,
        item("message", role="user", content=[{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]),
        item("web_search_call", status="completed", action={"type": "search", "query": "x"}),
        item("custom_tool_call", name="apply_patch", input="*** Begin Patch", call_id="c1", status="completed"),
        item("custom_tool_call_output", call_id="c1", output="Done!"),
        output("lost", "?"),
        line("future_record", safe="ignored"),
        line("world_state", full=True, state={}),
    )

    assert contents(found) == [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "custom", "custom": {"name": "apply_patch", "input": "*** Begin Patch"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Done!"},
    ]
    assert found.notes == [
        "an item of the kind web_search_call is left out",
        "a tool result without its call is left out",
        "a line of the kind future_record is left out",
    ]


def test_results_follow_their_reply_whatever_came_between(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        META,
        said("user", "Go."),
        call("c1", n=1),
        call("c2", n=2),
        output("c1", "one"),
        said("assistant", "Going."),
        call("c3", n=3),
        said("user", "Hurry."),
        output("c3", "three"),
        output("c2", "two"),
        said("assistant", "Done."),
    )

    assert contents(found) == [
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": "Going.",
            "tool_calls": [called("c1", n=1), called("c2", n=2), called("c3", n=3)],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c3", "content": "three"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "user", "content": "Hurry."},
        {"role": "assistant", "content": "Done."},
    ]


def test_a_prompt_of_which_there_is_only_the_event_is_kept(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        META,
        line("event_msg", type="user_message", message="Go."),
        said("user", ENVIRONMENT),
        call("c1", n=1),
        output("c1", "one"),
        said("user", "# Context from my IDE setup: …\nAgain."),
        line("event_msg", type="user_message", message="Again."),
        said("assistant", "Done."),
        line("event_msg", type="user_message", message="More."),
    )

    assert [message["content"] for message in contents(found)] == [
        ENVIRONMENT, "Go.", None, "one", "# Context from my IDE setup: …\nAgain.", "Done.",
    ]  # fmt: skip


def test_turns_that_were_rolled_back_are_a_branch(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        META,
        said("user", ENVIRONMENT),
        said("user", "First"),
        said("assistant", "One"),
        said("user", "Second"),
        said("assistant", "Two"),
        said("user", "Third"),
        line("event_msg", type="thread_rolled_back", num_turns=2),
        said("user", "Another second"),
        said("assistant", "Another two"),
    )

    by_id = {message.id: message.message["content"] for message in found.messages}
    parents = {message.message["content"]: by_id.get(message.parent or "") for message in found.messages}
    assert parents == {
        ENVIRONMENT: None,
        "First": ENVIRONMENT,
        "One": "First",
        "Second": "One",
        "Two": "Second",
        "Third": "Two",
        "Another second": "One",
        "Another two": "Another second",
    }
    assert by_id[found.head or ""] == "Another two"


def test_a_compacted_session_goes_on_after_its_summary(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        META,
        said("user", "Start"),
        said("assistant", "Ready"),
        line("compacted", message="They started.", replacement_history=[{"type": "message", "role": "user"}]),
        said("user", "More"),
        line("compacted", message="", replacement_history=[]),
        said("assistant", "Going on"),
    )

    assert [message["content"] for message in contents(found)] == [
        "Start", "Ready", "They started.", "More", "Going on",
    ]  # fmt: skip
    assert found.notes == ["a summary that only OpenAI's servers can read is left out"]


def test_a_fork_and_an_agent_name_where_they_come_from(tmp_path: Path) -> None:
    fork = line("session_meta", id="fork", timestamp="2026-01-02T03:04:05Z", forked_from_id=SESSION)
    spawn = {"subagent": {"thread_spawn": {"parent_thread_id": SESSION, "depth": 1}}}
    agent = line("session_meta", id="agent", timestamp="2026-01-02T03:04:05Z", source=spawn, agent_nickname="Ada")

    assert read(tmp_path, fork, META, said("user", "Hi")).metadata == {"forked_from": SESSION}
    found = read(tmp_path, agent, said("user", "Hi"))
    assert (found.id, found.metadata) == ("agent", {"agent_of": SESSION, "agent": "Ada"})


def test_a_folder_is_read_with_names_and_compressed_files(tmp_path: Path) -> None:
    zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    day = tmp_path / "sessions" / "2026" / "01" / "02"
    plain = write(day / NAME, META, said("user", "Hi"))
    (day / f"{NAME}.zst").write_bytes(b"a copy that is not read")
    other = [line("session_meta", id="two", timestamp="2026-01-02T03:04:05Z"), said("user", "Hi")]
    (day / "rollout-2.jsonl.zst").write_bytes(zstd.compress("\n".join(map(json.dumps, other)).encode()))
    (day / "rollout-3.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes().replace(SESSION.encode(), b"three")))
    write(tmp_path / "session_index.jsonl", {"id": "two", "thread_name": "The second", "updated_at": "…"})

    found = read_all(read_codex_sessions(tmp_path))

    assert [(conversation.id, conversation.title) for conversation in found] == [
        ("two", "The second"), (SESSION, None), ("three", None),
    ]  # fmt: skip
    assert read_all(read_codex_sessions(tmp_path / "sessions")) == found


def test_a_compressed_file_that_cannot_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"{NAME}.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd and no more")
    monkeypatch.setattr("convstore.transfer.source_lines._ZSTD_MODULES", ())

    assert list(read_codex_sessions(path)) == [
        Problem(str(path), "is compressed with Zstandard; install `backports.zstd` to read it")
    ]
    monkeypatch.undo()
    (problem,) = read_codex_sessions(path)
    assert isinstance(problem, Problem)


def test_the_index_of_codex_is_refused_with_what_to_give_instead(tmp_path: Path) -> None:
    path = tmp_path / "state_5.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("create table threads (id text primary key, rollout_path text)")

    assert list(read_codex_sessions(path)) == [
        Problem(str(path), "is a database; Codex keeps conversations in files, in the folder `sessions` beside it")
    ]


def test_a_longer_version_of_a_session_keeps_the_ids_of_the_shorter(tmp_path: Path) -> None:
    records = [META, said("user", "Start"), said("assistant", "Ready"), said("user", "More"), said("assistant", "Good")]
    versions = [[message.id for message in read(tmp_path, *records[:count]).messages] for count in range(2, 6)]

    assert all(shorter == versions[-1][: len(shorter)] for shorter in versions)


def test_a_bad_line_is_a_problem_with_its_place_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / NAME
    rows = [
        json.dumps(META),
        json.dumps(said("user", "Start")),
        '{"timestamp": ',
        "[1]",
        json.dumps(line("response_item", type="message", role="user")),
        json.dumps(item("function_call", name="x")),
        json.dumps({"type": "response_item", "payload": 5}),
        json.dumps(line("event_msg", type="thread_rolled_back")),
        json.dumps(said("assistant", "Ready")),
    ]
    path.write_text("\n".join(rows) + "\n")

    *problems, found = check_whole(read_codex_sessions(path))

    assert problems == [
        Problem(f"{path}, line 3", "is not JSON: Expecting value at character 15"),
        Problem(f"{path}, line 4", "is not a line of a Codex session"),
        Problem(f"{path}, line 5", "has a message without a role or content"),
        Problem(f"{path}, line 6", "has a tool call without an id or a name"),
        Problem(f"{path}, line 7", "has no payload"),
        Problem(f"{path}, line 8", "does not say how many turns were rolled back"),
    ]
    assert isinstance(found, ImportedConversation)
    assert [message["content"] for message in contents(found)] == ["Start", "Ready"]


def test_damaged_sessions_give_problems_and_whole_conversations(tmp_path: Path) -> None:
    path = write(
        tmp_path / NAME,
        META,
        CONTEXT,
        said("user", "Go."),
        item("reasoning", summary=[{"type": "summary_text", "text": "Hm."}]),
        call("c1", n=1),
        output("c1", [{"type": "input_text", "text": "one"}]),
        item("custom_tool_call", name="apply_patch", input="*** Begin Patch", call_id="c2"),
        item("custom_tool_call_output", call_id="c2", output="Done!"),
        said("assistant", "Done."),
        line("event_msg", type="thread_rolled_back", num_turns=1),
        line("compacted", message="They went."),
        said("user", "Again."),
    )

    data = path.read_bytes()
    problems, conversations = check_damaged(path, data, read_codex_sessions)

    assert problems > 100
    assert conversations > 100

    problems, conversations = check_damaged(path, data, read_codex_sessions, change_values)

    assert problems > 10
    assert conversations > 200
