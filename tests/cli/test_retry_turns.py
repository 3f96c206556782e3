"""Test that `retry` sends a message again, and that `turns` lists every turn."""

import threading

import pytest

from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program, Rows, Running
from tests.cli.terminal import is_tame

MODES: list[list[str]] = [[], ["--no-stream"], ["--json"]]
WILD = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\x08e\rf\x7fg"


def read_sent_contents(server: ChatServer) -> list[str]:
    return [message["content"] for message in server.requests[-1].body["messages"]]


# --- retry ---


@pytest.mark.parametrize("mode", MODES)
def test_after_a_failure_retry_sends_the_same_message(
    on_each: Program, chat_server: ChatServer, mode: list[str]
) -> None:
    on_each("new", "--system", "Be brief.")
    chat_server.script(Failure(500), Failure(500), Reply("At last."))
    assert on_each("say", "well?").code == 6
    assert on_each("retry", *mode).code == 6
    ran = on_each("retry", *mode)
    assert (ran.code, ran.err) == (0, "")
    answered = ran.json["message"]["content"] + "\n" if mode == ["--json"] else ran.out
    assert answered == "At last.\n"
    assert [request.body["messages"] for request in chat_server.requests] == [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "well?"}]
    ] * 3
    turns = on_each("turns", "--json").json
    assert [turn["status"] for turn in turns] == ["failed", "failed", "completed"]
    assert [turn["input_seqs"] for turn in turns] == [[2], [2], [2]]
    shown = on_each("show", "--json").json
    assert [record["message"]["content"] for record in shown["messages"]] == ["Be brief.", "well?", "At last."]
    assert shown["unanswered"] == []
    on_each("say", "next")
    assert read_sent_contents(chat_server) == ["Be brief.", "well?", "At last.", "next"]


def test_a_retried_reply_replaces_the_first_which_is_kept(on_each: Program, chat_server: ChatServer) -> None:
    on_each("new")
    chat_server.script(Reply("one"), Reply("two"), Reply("three"))
    on_each("say", "well?")
    assert (on_each("retry").out, on_each("retry").out) == ("two\n", "three\n")
    assert read_sent_contents(chat_server) == ["well?"]
    shown = on_each("show", "--json").json["messages"]
    assert [(record["position"], record["message"]["content"]) for record in shown] == [(1, "well?"), (2, "three")]
    assert [turn["output"]["content"] for turn in on_each("turns", "--json").json] == ["one", "two", "three"]
    on_each("say", "next")
    assert read_sent_contents(chat_server) == ["well?", "three", "next"]


def test_a_failed_retry_leaves_the_earlier_reply(program: Program, chat_server: ChatServer) -> None:
    program("new")
    chat_server.script(Reply("one"), Failure(500))
    program("say", "well?")
    program("retry").one_line("500", "turn 2")
    assert program("say", "next").code == 0
    assert read_sent_contents(chat_server) == ["well?", "one", "next"]


def test_a_retry_uses_the_same_parameters_except_those_given(program: Program, chat_server: ChatServer) -> None:
    program("new", "--temperature", "0.2")
    program("say", "well?", "-m", "gpt-once", "-o", "seed", "7")
    program("retry", "--top-p", "0.5", "-o", "seed", "8")
    program("retry")
    asked = [
        {key: value for key, value in request.body.items() if key not in ("messages", "stream", "stream_options")}
        for request in chat_server.requests
    ]
    changed = {"model": "gpt-once", "top_p": 0.5, "seed": 8}
    assert asked == [{"model": "gpt-once", "temperature": 0.2, "seed": 7}, changed, changed]
    program("retry", "--temperature", "3").failed(2, "0 to 2")
    program("retry", "--temperature", "1", "--top-p", "1").failed(2, "not both")
    assert len(chat_server.requests) == 3


def test_retry_without_a_turn_is_an_error(program: Program, chat_server: ChatServer, rows: Rows) -> None:
    program("retry").failed(3, "no conversation yet")
    identity = program("new", "--system", "Be brief.").out.strip()
    program("retry").failed(2, identity, "no turn to retry")
    program("retry", "nope").failed(3, "nope")
    assert (chat_server.requests, rows.turns, rows.count) == ([], [], 1)


def test_retry_uses_the_named_conversation(program: Program, chat_server: ChatServer) -> None:
    program("new", "--name", "games")
    program("say", "first", "-c", "games")
    program("new")
    program("say", "second")
    assert program("retry", "games").out == "You said: first\n"
    assert len(program("turns", "games", "--json").json) == 2
    program.set(CONVSTORE_CONVERSATION="games")
    assert program("retry").out == "You said: first\n"


# --- turns ---

KEYS = [
    *(
        "turn",
        "purpose",
        "status",
        "input",
        "output",
        "partial",
        "error",
        "attempts",
        "finish_reason",
        "model",
        "usage",
        "cost",
    ),
    *(
        "request",
        "window",
        "estimated_tokens",
        "response_id",
        "system_fingerprint",
        "idempotency_key",
        "input_seqs",
        "output_seq",
    ),
    *("latency", "time_to_first_token", "started_at", "ended_at", "response_fields", "notes"),
]


def test_turns_json_has_everything_about_every_turn(on_each: Program, chat_server: ChatServer) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}
    on_each("new")
    chat_server.script(
        Reply("whole", usage=usage, id="r1", model="served"), Failure(500), Reply("cut", finish_reason=None)
    )
    on_each("say", "one", "--system", "Be brief.", "--key", "k1", "-o", "seed", "7")
    on_each("say", "two")
    on_each("say", "three", "--no-stream")
    turns = on_each("turns", "--json").json
    assert [list(turn) for turn in turns] == [KEYS] * 3
    one, two, three = turns
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]
    assert [one[key] for key in KEYS[:10]] == [
        *(1, None, "completed", asked, {"role": "assistant", "content": "whole"}, None, None, [], "stop", "served"),
    ]
    assert (one["usage"], one["response_id"], one["idempotency_key"]) == (usage, "r1", "k1")
    assert (one["input_seqs"], one["output_seq"], one["request"]["seed"]) == ([1, 2], 3, 7)
    assert 0 <= one["time_to_first_token"] <= one["latency"]
    assert one["started_at"] <= one["ended_at"]
    assert (two["turn"], two["status"], two["output"], two["partial"]) == (2, "failed", None, None)
    assert (two["error"]["status"], two["usage"]) == (500, None)
    assert (three["status"], three["output"]) == ("interrupted", None)
    assert three["partial"]["content"] == "cut"
    assert three["error"]["type"] == "NoFinishReason"


def test_each_turn_is_one_line_and_its_error_another(on_each: Program, chat_server: ChatServer) -> None:
    on_each("new")
    usage = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}
    chat_server.script(Reply("whole", usage=usage), Failure(500, "A fault\nof two lines"), Reply("x", usage=None))
    on_each("say", "a question\nof two lines " + "x" * 100)
    on_each("say", "two")
    on_each("say", "three")
    ran = on_each("turns")
    assert (ran.code, ran.err) == (0, "")
    first, second, error, third = ran.out.splitlines()
    assert first.split()[:2] == ["1", "completed"]
    assert "  20+7  a question of two lines xxx" in first
    assert first.endswith("x…")
    assert second.split()[:2] == ["2", "failed"]
    assert second.endswith("  -  two")
    assert error == "      A fault of two lines"
    assert third.endswith("  -  three")


def test_turns_lists_20_turns_by_default(program: Program) -> None:
    program("new")
    for number in range(22):
        program("say", str(number), "--no-history")
    assert len(program("turns").out.splitlines()) == 20
    assert [turn["turn"] for turn in program("turns", "--limit", "2", "--json").json] == [21, 22]
    assert [turn["turn"] for turn in program("turns", "--limit", "0", "--json").json] == list(range(1, 23))
    program("turns", "--limit", "-1").failed(2, "--limit")


def test_turns_of_a_new_conversation_print_a_note(program: Program) -> None:
    program("turns").failed(3, "no conversation yet")
    program("new", "--system", "Be brief.")
    ran = program("turns")
    assert (ran.code, ran.out, ran.err) == (0, "", "convstore: no turns yet\n")
    assert program("turns", "--json").json == []
    program("turns", "nope").failed(3, "nope")


def test_turns_lists_a_running_turn(program: Program, chat_server: ChatServer) -> None:
    started = threading.Event()
    chat_server.script(Reply("never", hold=threading.Event(), started=started))
    program("new")
    with Running("say", "hi"):
        assert started.wait(30)
        [turn] = program("turns", "--json").json
        assert (turn["status"], turn["output"], turn["partial"], turn["ended_at"]) == ("running", None, None, None)
        assert turn["input"] == [{"role": "user", "content": "hi"}]
        assert program("turns").out.split()[:2] == ["1", "running"]


@pytest.mark.parametrize("command", [["turns"], ["turns", "--json"], ["retry"], ["retry", "--json"]], ids=" ".join)
def test_no_stored_text_drives_the_terminal(program: Program, chat_server: ChatServer, command: list[str]) -> None:
    program("new", "-m", WILD)
    chat_server.script(Reply(WILD, pieces=list(WILD), model=WILD, id=WILD), Failure(500, WILD, code=WILD), Reply(WILD))
    program("say", WILD, "-o", WILD, WILD)
    program("say", WILD)
    ran = program(*command, terminal=True)
    assert ran.code == 0
    assert "owned" in ran.out
    assert is_tame((ran.out + ran.err).replace("\t", ""))
    if command == ["turns", "--json"]:  # the JSON has the exact text
        assert ran.json[0]["input"][0]["content"] == WILD
