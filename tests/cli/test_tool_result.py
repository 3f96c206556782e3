"""Test `tool-result` and `say --continue`, with which a user gives tool results."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from convstore.testing import ChatServer, Reply
from tests.cli.program import Program, Rows, Running
from tests.cli.terminal import is_tame

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
MODES: list[list[str]] = [[], ["--no-stream"], ["--json"]]


def make_call(id: str, name: str = "weather") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": '{"city": "Beijing"}'}}


def make_calling_reply(*ids: str) -> Reply:
    message = {"role": "assistant", "content": None, "tool_calls": [make_call(id) for id in ids]}
    return Reply(message=message, finish_reason="tool_calls")


@pytest.fixture
def talk(on_each: Program, chat_server: ChatServer) -> Program:
    """Return the command line with a conversation that has two tool calls."""
    on_each("new", "--name", "w", "-o", "tools", json.dumps(TOOLS))
    chat_server.script(make_calling_reply("call_1", "call_2"))
    on_each("say", "How is the weather?")
    return on_each


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_after_the_results_the_model_continues(
    on_each: Program, chat_server: ChatServer, tmp_path: Path, mode: list[str]
) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS, indent=2))
    on_each("new", "-o", "tools", f"@{tmp_path}/tools.json", "-o", "tool_choice", "auto")
    chat_server.script(make_calling_reply("call_1", "call_2"), Reply("Sunny."))
    ran = on_each("say", "How is the weather?")
    assert (ran.code, ran.out) == (0, "")
    ran.one_line("convstore tool-result")
    for arguments, stdin in ((["call_2"], "二十度\n".encode()), (["call_1", "21 degrees"], None)):
        ran = on_each("tool-result", *arguments, stdin=stdin)
        assert (ran.code, ran.out, ran.err) == (0, "", "")
    ran = on_each("say", "--continue", *mode)
    assert (ran.code, ran.err) == (0, "")
    assert (ran.json["message"]["content"] if "--json" in mode else ran.out) == "Sunny." + (
        "\n" * ("--json" not in mode)
    )
    body = chat_server.requests[-1].body
    assert (body["tools"], body["tool_choice"]) == (TOOLS, "auto")
    assert body["messages"] == [
        {"role": "user", "content": "How is the weather?"},
        {"role": "assistant", "tool_calls": [make_call("call_1"), make_call("call_2")]},
        {"role": "tool", "tool_call_id": "call_2", "content": "二十度"},
        {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"},
    ]
    assert on_each("turns").out.splitlines()[-1].endswith("(continued)")
    assert on_each("say", "Thanks").out == "You said: Thanks\n"


def test_a_terminal_shows_the_calls_without_a_result_and_then_how_to_continue(talk: Program) -> None:
    assert "calls still without a result: call_2 (weather)" in talk("tool-result", "call_1", "x", terminal=True).err
    assert "`convstore say --continue`" in talk("tool-result", "call_2", "y", "-c", "w", terminal=True).err


def test_json_has_the_message_and_the_calls_without_a_result(talk: Program) -> None:
    found = talk("tool-result", "call_1", "x", "--json").json
    assert list(found) == ["conversation", "position", "seq", "turn", "created_at", "message", "pending"]
    assert (found["position"], found["message"]["tool_call_id"]) == (3, "call_1")
    assert found["pending"] == [make_call("call_2")]
    assert talk("tool-result", "call_2", "", "--json").json["pending"] == []
    assert talk("show", "--json").json["messages"][-1]["message"]["content"] == ""


def test_an_unknown_call_or_one_with_a_result_is_refused(talk: Program, rows: Rows) -> None:
    talk("tool-result", "call_9", "x").failed(2, "no call 'call_9'", "call_1 (weather), call_2 (weather)")
    talk("tool-result", "call_1", "x")
    talk("tool-result", "call_1", "x").failed(2, "call 'call_1' already has a result, at position 3")
    talk("tool-result", "call_2", "y")
    talk("say", "--continue")
    talk("tool-result", "call_9", "x").failed(2, "no call 'call_9'", "every call has a result")
    talk("tool-result", "call_1", "x").failed(2, "already has a result, at position 3")
    assert len(talk("show", "--json").json["messages"]) == 5


def test_unanswered_calls_are_named_or_filled(talk: Program, chat_server: ChatServer) -> None:
    talk("tool-result", "call_1", "x")
    talk("say", "well?").failed(2, "call_2 (weather)", "convstore tool-result")
    ran = talk("say", "well?", "--fill-missing-tools", "--dry-run")
    assert "placeholders answer call_2" in ran.err
    assert talk("say", "well?", "--fill-missing-tools").out == "You said: well?\n"
    roles = [message["role"] for message in chat_server.requests[-1].body["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user"]
    assert [found["message"]["role"] for found in talk("show", "--json").json["messages"]] == [
        *("user", "assistant", "tool", "user", "assistant"),  # the placeholder is not stored
    ]


def test_the_conversation_and_the_expected_head_can_be_given(talk: Program) -> None:
    talk("new", "other")
    talk("tool-result", "call_1", "x").failed(2, "every call has a result")
    talk("tool-result", "call_1", "x", "-c", "nope").failed(3, "nope")
    talk("tool-result", "call_1", "x", "-c", "w", "--expected-head", "1").failed(5, "head")
    talk.set(CONVSTORE_CONVERSATION="w")
    assert talk("tool-result", "call_1", "x", "--expected-head", "2").code == 0
    talk("tool-result").failed(2, "CALL_ID")
    talk("tool-result", "call_2", stdin=b"\xff").failed(2, "not UTF-8")


def test_results_given_at_the_same_time_are_each_stored_once(program: Program, chat_server: ChatServer) -> None:
    ids = [f"call_{number}" for number in range(3)]
    program("new")
    chat_server.script(make_calling_reply(*ids))
    program("say", "hi")
    running = [Running("tool-result", id, "x") for id in [*ids, *ids]]
    codes = [one.end().code for one in running]
    assert sorted(codes) == [0, 0, 0, 2, 2, 2]
    given = [found["message"].get("tool_call_id") for found in program("show", "--json").json["messages"][2:]]
    assert sorted(given) == ids
    assert program("say", "--continue").code == 0


def test_a_result_with_no_wait_is_refused_while_a_turn_runs(program: Program, chat_server: ChatServer) -> None:
    started, go = threading.Event(), threading.Event()
    program("new")
    chat_server.script(make_calling_reply("call_1"), Reply("done", hold=go, started=started))
    program("say", "hi")
    with Running("say", "more", "--fill-missing-tools") as other:
        assert started.wait(30)
        try:
            program("tool-result", "call_1", "x", "--no-wait").failed(5, "busy")
        finally:
            go.set()
        assert other.end().code == 0
    program("tool-result", "call_1", "x").failed(2, "every call has a result")


# --- say --continue ---


def test_continue_needs_a_message_to_reply_to(program: Program, chat_server: ChatServer, rows: Rows) -> None:
    program("say", "--continue").failed(3, "no conversation yet")
    program("new")
    program("say", "--continue").failed(2, "no messages")
    program("say", "hi")
    program("say", "--continue").failed(2, "the model's own message")
    program("say", "--continue", "--no-history").failed(2, "history")
    assert (len(chat_server.requests), rows.count) == (1, 2)


@pytest.mark.parametrize(
    "more", [["hi"], ["-"], [""], ["--new"], ["-a", "x.png"], ["--system", "x"], ["--sender", "ann"]], ids=str
)
def test_continue_refuses_a_new_message(talk: Program, chat_server: ChatServer, more: list[str]) -> None:
    talk("say", "--continue", *more).failed(2, "--continue")
    assert len(chat_server.requests) == 1


def test_continue_takes_the_options_of_say(talk: Program, chat_server: ChatServer) -> None:
    for id in ("call_1", "call_2"):
        talk("tool-result", id, "x")
    dry = talk("say", "--continue", "--dry-run", "--temperature", "1", "--last", "0")
    assert dry.err == "", dry
    assert dry.json["temperature"] == 1
    assert [message["role"] for message in dry.json["messages"]] == ["user", "assistant", "tool", "tool"]
    talk("say", "--continue", "--expected-head", "2").failed(5, "head")
    chat_server.script(Reply("one"), Reply("two"))
    ran = [talk("say", "--continue", "--key", "k", "-c", "w", "--temperature", "1", "--last", "0") for _ in range(2)]
    assert [one.out for one in ran] == ["one\n", "one\n"]
    assert chat_server.requests[-1].body == dry.json
    assert talk("retry").out == "two\n"


def test_no_tool_call_drives_the_terminal(program: Program, chat_server: ChatServer) -> None:
    wild = "a\x1b]0;owned\x07b\x1b[2J\x9b31m\ng"
    program("new")
    message = {"role": "assistant", "content": None, "tool_calls": [make_call(wild, wild), make_call("b", wild)]}
    chat_server.script(Reply(message=message, finish_reason="tool_calls"))
    program("say", "hi", terminal=True)
    for arguments in (["tool-result", wild, wild], ["tool-result", wild, "x"], ["tool-result", "c", "x"]):
        ran = program(*arguments, terminal=True)
        assert "owned" in ran.err
        assert is_tame(ran.out + ran.err)
