"""Test `convstore say`: what it sends, prints and stores."""

import json
import threading
from typing import Any

import pytest

from convstore.testing import ChatServer, Reply
from tests.cli.program import Program, Rows

GAMES = "2008年奥运会是在哪里举行的？"


def read_sent_messages(server: ChatServer, number: int = -1) -> list[dict[str, Any]]:
    """Return the messages of a request."""
    messages: list[dict[str, Any]] = server.requests[number].body["messages"]
    return messages


@pytest.mark.parametrize("mode", [[], ["--no-stream"]])
def test_the_second_message_is_sent_with_the_first_one_and_its_reply(
    on_each: Program, chat_server: ChatServer, mode: list[str]
) -> None:
    chat_server.script(Reply("中国北京。"), Reply("伦敦。"))
    on_each("new", "Olympics", "--system", "You are a sports expert.", "--temperature", "0")
    first = on_each("say", GAMES, *mode)
    assert (first.code, first.out, first.err) == (0, "中国北京。\n", "")
    assert on_each("say", "And in 2012?", *mode).out == "伦敦。\n"
    assert read_sent_messages(chat_server) == [
        {"role": "system", "content": "You are a sports expert."},
        {"role": "user", "content": GAMES},
        {"role": "assistant", "content": "中国北京。"},
        {"role": "user", "content": "And in 2012?"},
    ]
    body = chat_server.requests[-1].body
    assert body.get("stream", False) is (mode == [])
    assert (body["model"], body["temperature"]) == ("test-model", 0)
    shown = on_each("show")
    assert (shown.code, shown.err) == (0, "")
    assert f"2 user\n{GAMES}\n\n3 assistant\n中国北京。\n" in shown.out


def test_json_is_one_object_with_the_facts_of_the_turn(on_each: Program, chat_server: ChatServer) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, "x_vendor": {"deep": [1]}}
    message = {"role": "assistant", "content": "Yes", "refusal": None, "x": {"y": "雨"}}
    chat_server.script(Reply(message=message, usage=usage, model="test-model-2026"))
    identity = on_each("new").out.strip()
    ran = on_each("say", "Well?", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert list(ran.json) == ["conversation", "turn", "status", "message", "finish_reason", "model", "usage", "cost"]
    assert ran.json == {
        "conversation": identity,
        "turn": 1,
        "status": "completed",
        "message": message,
        "finish_reason": "stop",
        "model": "test-model-2026",
        "usage": usage,
        "cost": None,
    }


def test_dry_run_prints_the_request_and_stores_and_sends_nothing(
    program: Program, chat_server: ChatServer, rows: Rows
) -> None:
    program("new", "--system", "Be brief.", "--temperature", "0.5")
    ran = program("say", "Hi", "--dry-run", "--top-p", "0.1", "--sender", "ann", "-o", "seed", "7")
    assert (ran.code, ran.err, chat_server.requests) == (0, "", [])
    assert (rows.turns, rows.count) == ([], 1)
    program("say", "Hi", "--top-p", "0.1", "--sender", "ann", "-o", "seed", "7")
    assert chat_server.requests[-1].body == ran.json
    assert ran.json["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "name": "ann"},
    ]
    assert "temperature" not in ran.json
    program.set(OPENAI_BASE_URL=None)  # a dry run needs no server
    assert "stream" not in program("say", "Hi", "--dry-run", "--no-stream").json


def test_no_history_sends_the_message_alone(program: Program, chat_server: ChatServer) -> None:
    program("new", "--system", "Be brief.")
    program("say", "one")
    program("say", "two", "--no-history")
    assert read_sent_messages(chat_server) == [{"role": "user", "content": "two"}]
    program("say", "three")
    assert [message["content"] for message in read_sent_messages(chat_server)] == [
        *("Be brief.", "one", "You said: one", "two", "You said: two", "three"),
    ]


def test_a_system_message_goes_before_the_message(program: Program, chat_server: ChatServer) -> None:
    program("new")
    program("say", "hi", "--system", "Rhyme.")
    assert read_sent_messages(chat_server) == [
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "hi"},
    ]


def test_say_new_starts_a_conversation_that_keeps_the_parameters(program: Program, chat_server: ChatServer) -> None:
    program("new", "other")
    ran = program("say", "--new", "Tell me\na joke", "--system", "Rhyme.", "-m", "gpt-x", "--temperature", "1")
    assert (ran.code, ran.out) == (0, "You said: Tell me\na joke\n")
    program("say", "Another")
    assert [message["content"] for message in read_sent_messages(chat_server)] == [
        *("Rhyme.", "Tell me\na joke", "You said: Tell me\na joke", "Another"),
    ]
    assert (chat_server.requests[-1].body["model"], chat_server.requests[-1].body["temperature"]) == ("gpt-x", 1)
    assert [found["title"] for found in program("list", "--json").json] == ["Tell me a joke", "other"]


def test_say_new_starts_no_conversation_if_the_message_is_refused(program: Program) -> None:
    program("say", "--new", "").failed(2, "empty")
    program("say", "--new", "hi", "--temperature", "3").failed(2, "0 to 2")
    program("say", "--new", "hi", "-o", "metadata", "{}").failed(2, "metadata")
    program("say", "--new", "-c", "x", "hi").failed(2, "-c or --new")
    program.set(CONVSTORE_MODEL=None)
    program("say", "--new", "hi").failed(2, "no model is named")
    program.set(OPENAI_BASE_URL=None, CONVSTORE_MODEL="m")
    program("say", "--new", "hi").failed(2, "OPENAI_API_KEY")
    assert program("list", "--json").json == []


def test_an_explicit_top_p_replaces_a_kept_temperature(program: Program, chat_server: ChatServer) -> None:
    program("new", "--temperature", "0.5")
    program("say", "a", "--top-p", "0.9")
    body = chat_server.requests[-1].body
    assert (body["top_p"], "temperature" in body) == (0.9, False)
    program("say", "b")
    body = chat_server.requests[-1].body
    assert (body["temperature"], "top_p" in body) == (0.5, False)


def test_unknown_parameters_are_sent_unchanged(program: Program, chat_server: ChatServer) -> None:
    program("new")
    program("say", "a", "-o", "x_vendor", '{"deep": [1, null]}', "-o", "stop", "END", "-o", "metadata", '{"k": "v"}')
    body = chat_server.requests[-1].body
    assert (body["x_vendor"], body["stop"], body["metadata"]) == ({"deep": [1, None]}, "END", {"k": "v"})


@pytest.mark.parametrize("mode", [[], ["--no-stream"]])
def test_a_refusal_is_printed(program: Program, chat_server: ChatServer, mode: list[str]) -> None:
    chat_server.script(Reply(message={"role": "assistant", "content": None, "refusal": "I will not."}))
    program("new")
    assert program("say", "Do it", *mode).out == "I will not.\n"


def test_a_reply_that_ends_with_a_newline_gets_no_second_one_in_a_stream(
    program: Program, chat_server: ChatServer
) -> None:
    chat_server.script(Reply("a\n"))
    program("new")
    assert program("say", "x").out == "a\n"


# --- where the message comes from ---


def test_a_missing_message_or_a_dash_is_read_from_standard_input(program: Program, chat_server: ChatServer) -> None:
    program("new")
    assert program("say", stdin=b"  from a file\nof lines\n").code == 0
    assert read_sent_messages(chat_server)[-1]["content"] == "  from a file\nof lines"
    program("say", "-", stdin="再见".encode())
    assert read_sent_messages(chat_server)[-1]["content"] == "再见"


def test_a_message_and_standard_input_are_joined(program: Program, chat_server: ChatServer) -> None:
    program("new")
    program("say", "Review this", stdin=b"+ a\n- b\n")
    assert read_sent_messages(chat_server)[-1]["content"] == "Review this\n\n+ a\n- b"
    assert program.real("say", "Review that", stdin=b"- c\n").code == 0
    assert read_sent_messages(chat_server)[-1]["content"] == "Review that\n\n- c"


@pytest.mark.parametrize("stdin", [None, b"", b"\n"])
def test_an_empty_standard_input_adds_nothing(program: Program, chat_server: ChatServer, stdin: bytes | None) -> None:
    program("new")
    assert program("say", "alone", stdin=stdin).code == 0
    assert read_sent_messages(chat_server)[-1]["content"] == "alone"


def test_a_message_that_begins_with_a_dash_comes_after_two_dashes(program: Program, chat_server: ChatServer) -> None:
    program("new")
    assert program("say", "--no-stream", "--", "--help").out == "You said: --help\n"
    program("say", "-x").failed(2, "-x")


# --- which conversation ---


def test_a_conversation_is_named_by_id_name_or_the_beginning_of_its_id(on_each: Program) -> None:
    on_each("new", "--id", "abc123", "--name", "games")
    on_each("new", "--id", "xyz")
    for reference in ("abc123", "games", "ab"):
        assert on_each("say", "hi", "-c", reference).code == 0
        assert on_each("show", reference, "--json").json["id"] == "abc123"
    assert on_each("list", "--json").json[0]["messages"] == 6


def test_without_ref_a_command_uses_the_conversation_of_the_environment_or_the_last_used_one(program: Program) -> None:
    program("new", "--name", "first")
    program("new", "--name", "second")
    assert program("show", "--json").json["name"] == "second"
    program.set(CONVSTORE_CONVERSATION="first")
    assert program("show", "--json").json["name"] == "first"
    assert program("show", "second", "--json").json["name"] == "second"
    program("say", "hi")
    program.set(CONVSTORE_CONVERSATION="")
    assert program("set", "-o", "seed", "1", "--json").json["name"] == "first"
    program.set(CONVSTORE_CONVERSATION="nope")
    program("say", "hi").failed(3, "'nope'")


def test_an_empty_ref_is_not_found(program: Program, chat_server: ChatServer) -> None:
    # If ID is not set, `convstore say … -c "$ID"` must not use the conversation that was used last.
    program("new", "private")
    program("say", "hi", "-c", "").failed(3)
    program("show", "").failed(3)
    program("set", "", "--title", "x").failed(3)
    assert chat_server.requests == []


@pytest.mark.parametrize("command", [["say", "hi", "-c"], ["show"], ["set", "--title", "x"]])
def test_an_unknown_name_is_not_found(on_each: Program, chat_server: ChatServer, command: list[str]) -> None:
    on_each("new")
    on_each(*command, "nope").failed(3, "no conversation 'nope'", "convstore list")
    on_each(*command, "a\x1bb").failed(3)
    assert chat_server.requests == []


@pytest.mark.parametrize("command", [["say", "hi", "-c"], ["show"], ["set", "--title", "x"]])
def test_an_ambiguous_id_lists_the_candidates(on_each: Program, chat_server: ChatServer, command: list[str]) -> None:
    on_each("new", "One", "--id", "abc1")
    on_each("new", "--id", "abc2", "--name", "two")
    ran = on_each(*command, "abc")
    assert (ran.code, ran.out) == (4, "")
    first, *candidates = ran.err.splitlines()
    assert first.startswith("convstore: 'abc' matches abc1, abc2; type more of the id")
    assert [line.split() for line in candidates] == [["abc1", "One"], ["abc2", "two"]]
    assert chat_server.requests == []


@pytest.mark.parametrize("command", [["say", "hi"], ["show"], ["set", "--title", "x"]])
def test_an_empty_database_says_how_to_start(on_each: Program, command: list[str]) -> None:
    on_each(*command).failed(3, "no conversation yet", "convstore new")


def test_a_running_turn_makes_say_wait_and_then_fail(program: Program, chat_server: ChatServer) -> None:
    held, go = threading.Event(), threading.Event()
    chat_server.script(Reply("first", hold=go, started=held))
    program("new")
    other = threading.Thread(target=program.real, args=("say", "one"))
    other.start()
    try:
        assert held.wait(30)
        program("say", "two", "--wait", "0").failed(5, "turn 1")
    finally:
        go.set()
        other.join()
    assert program("say", "three").code == 0
    assert [message["content"] for message in read_sent_messages(chat_server)] == ["one", "first", "three"]


def test_show_prints_a_conversation_without_messages(program: Program) -> None:
    identity = program("new").out.strip()
    assert program("show").out == f"{identity}\n"
    assert program("show", "--json").json["messages"] == []


def test_show_last_prints_only_the_last_messages(program: Program) -> None:
    program("new")
    program("say", "one")
    program("say", "two")
    assert [found["position"] for found in program("show", "--last", "3", "--json").json["messages"]] == [2, 3, 4]
    program("show", "--last", "0").failed(2, "--last")


def test_show_prints_the_tool_calls_of_a_message(program: Program, chat_server: ChatServer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}
    chat_server.script(
        Reply(message={"role": "assistant", "content": None, "tool_calls": [call]}, finish_reason="tool_calls")
    )
    program("new")
    ran = program("say", "find it")
    assert (ran.code, ran.out) == (0, "")
    ran.one_line("the reply calls tools")
    assert '[calls find({"q": 1}) as call_1]' in program("show").out
    assert json.loads(program("show", "--json").out)["messages"][1]["message"]["tool_calls"] == [call]
