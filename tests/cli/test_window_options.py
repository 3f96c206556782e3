"""Test window options of one call and of a conversation, and notes of dry runs."""

from typing import Any

import pytest

from convstore.cli.options.history_options import WINDOW_OPTION_NAMES
from convstore.cli.render.window_text import explain_window
from convstore.testing import ChatServer, Failure, Reply
from convstore.values.identifiers import Seq
from convstore.values.window_options import WINDOW_OPTION_NAMES as OPTIONS
from convstore.values.window_report import WindowReport
from tests.cli.program import Program, Rows
from tests.cli.terminal import is_tame


def read_sent_contents(server: ChatServer) -> list[str]:
    return [message["content"] for message in server.requests[-1].body["messages"]]


def make_turn_contents(*words: str) -> list[str]:
    """Return the contents of turns with these messages and their replies."""
    return [text for word in words for text in (word, f"You said: {word}")]


@pytest.fixture
def talk(program: Program) -> Program:
    """Return the command line with a conversation of three turns."""
    program("new", "--system", "Be brief.")
    for word in ("one", "two", "three"):
        program("say", word)
    return program


def read_kept_options(program: Program) -> dict[str, Any]:
    found: dict[str, Any] = program("show", "--json").json["window"]
    return found


def test_the_command_line_knows_every_option_of_the_window() -> None:
    assert WINDOW_OPTION_NAMES == OPTIONS


# --- options of one call ---


@pytest.mark.parametrize(
    ("options", "history"),
    [
        ([], ["Be brief.", *make_turn_contents("one", "two", "three")]),
        (["--last", "1"], ["Be brief.", *make_turn_contents("three")]),
        (["--last", "2"], ["Be brief.", *make_turn_contents("two", "three")]),
        (["--last", "0"], ["Be brief."]),
        (["--last", "99"], ["Be brief.", *make_turn_contents("one", "two", "three")]),
        (["--no-history"], []),
        (["--max-context", "30"], ["Be brief.", *make_turn_contents("three")]),
    ],
    ids=str,
)
def test_the_options_of_a_call_limit_what_is_sent(
    talk: Program, chat_server: ChatServer, options: list[str], history: list[str]
) -> None:
    assert talk("say", "four", *options).out == "You said: four\n"
    assert read_sent_contents(chat_server) == [*history, "four"]
    talk("say", "five")
    assert read_sent_contents(chat_server) == [
        "Be brief.",
        *make_turn_contents("one", "two", "three", "four"),
        "five",
    ]  # the options were not stored


def test_retry_uses_the_same_window_options_by_default(talk: Program, chat_server: ChatServer) -> None:
    talk("say", "four", "--last", "1")
    talk("retry")
    assert read_sent_contents(chat_server) == ["Be brief.", *make_turn_contents("three"), "four"]
    talk("retry", "--last", "all")
    assert read_sent_contents(chat_server) == ["Be brief.", *make_turn_contents("one", "two", "three"), "four"]


def test_a_message_that_does_not_fit_alone_is_refused(talk: Program, chat_server: ChatServer, rows: Rows) -> None:
    talk("say", "four", "--max-context", "5").failed(2, "max_context is 5")
    talk("say", "four", "--dry-run", "--max-context", "5").failed(2, "max_context is 5")
    assert (len(chat_server.requests), rows.count) == (3, 7)


def test_with_trim_a_request_that_is_too_long_is_made_smaller(talk: Program, chat_server: ChatServer) -> None:
    too_long = Failure(400, "too long", code="context_length_exceeded")
    chat_server.script(too_long)
    talk("say", "four").one_line("too long")
    chat_server.script(too_long)
    assert talk("say", "four", "--on-overflow", "trim").out == "You said: four\n"
    assert len(read_sent_contents(chat_server)) < 8


@pytest.mark.parametrize("command", [["new"], ["set"], ["say", "x"], ["retry"], ["edit", "2", "x"]], ids=str)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--last", "-1"], ["last", "at least 0"]),
        (["--last", "few"], ["--last", "'few'", "'all'"]),
        (["--max-context", "0"], ["max_context", "at least 1"]),
        (["--max-context", "4k"], ["--max-context", "'4k'"]),
        (["--on-overflow", "cry"], ["--on-overflow", "'cry'"]),
        (["-o", "last", "4"], ["'last' is not a completion parameter", "--last"]),
        (["-o", "max_context", "4"], ["'max_context' is not a completion parameter", "--max-context"]),
        (["-o", "on_overflow", "trim"], ["--on-overflow"]),
        (["-o", "fill_missing_tools", "true"], ["--fill-missing-tools"]),
        (["-o", "send_reasoning", "true"], ["--send-reasoning"]),
        (["-o", "history", "false"], ["--no-history"]),
        (["-o", "compact_at", "4"], ["convstore set --compact-at"]),
        (["-o", "keep_last", "4"], ["convstore set --keep-last"]),
        (["-o", "expected_head", "4"], ["--expected-head"]),
    ],
    ids=str,
)
def test_an_invalid_window_option_is_refused_with_a_hint(
    program: Program, chat_server: ChatServer, command: list[str], options: list[str], words: list[str]
) -> None:
    program("new", "--system", "Be brief.")
    program(*command, *options).failed(2, *words)
    assert (chat_server.requests, len(program("list", "--json").json)) == ([], 1)


# --- options of a conversation ---


def test_a_kept_window_option_applies_until_it_is_changed_or_overridden(
    on_each: Program, chat_server: ChatServer
) -> None:
    on_each("new", "--system", "Be brief.", "--last", "1", "--compact-at", "100000", "--keep-last", "3")
    for word in ("one", "two", "three"):
        on_each("say", word)
    assert read_sent_contents(chat_server) == ["Be brief.", *make_turn_contents("two"), "three"]
    on_each("say", "four", "--last", "all")
    assert read_sent_contents(chat_server) == ["Be brief.", *make_turn_contents("one", "two", "three"), "four"]
    ran = on_each("set", "--last", "2", "--max-context", "9000", "--send-reasoning", "--on-overflow", "trim", "--json")
    everything = {
        "last": 2,
        "compact_at": 100000,
        "keep_last": 3,
        "max_context": 9000,
        "send_reasoning": True,
        "on_overflow": "trim",
    }
    assert ran.json["window"] == everything
    assert ran.json["settings"] == {}
    on_each("say", "five")
    assert read_sent_contents(chat_server) == ["Be brief.", *make_turn_contents("three", "four"), "five"]
    assert "last 2 · " in on_each("show").out.splitlines()[1]
    changed = on_each("set", "--unset", "last", "--unset", "max-context", "--max-context", "all", "--json")
    changed.failed(2, "'max_context' is both set and unset")
    on_each("set", "--unset", "last", "--unset", "max-context", "--unset", "on_overflow", "--no-send-reasoning")
    assert read_kept_options(on_each) == {"compact_at": 100000, "keep_last": 3, "send_reasoning": False}
    on_each("set", "--max-context", "8000", "--fill-missing-tools")
    on_each("set", "--max-context", "all", "--unset", "fill-missing-tools", "--unset", "send-reasoning")
    assert read_kept_options(on_each) == {"compact_at": 100000, "keep_last": 3}


def test_no_history_can_be_kept_and_overridden(program: Program, chat_server: ChatServer) -> None:
    program("new", "--no-history")
    program("say", "one")
    program("say", "two")
    assert read_sent_contents(chat_server) == ["two"]
    program("say", "three", "--history")
    assert read_sent_contents(chat_server) == [*make_turn_contents("one", "two"), "three"]
    program("say", "four")
    assert read_sent_contents(chat_server) == ["four"]
    program("set", "--history")
    program("say", "five")
    assert len(read_sent_contents(chat_server)) == 9
    program("set", "--no-history")
    program("set", "--unset", "history")
    assert read_kept_options(program) == {}


def test_say_new_keeps_the_window_options(program: Program, chat_server: ChatServer) -> None:
    program("say", "--new", "one", "--last", "1", "--system", "Be brief.", "--no-history")
    assert read_sent_contents(chat_server) == ["one"]
    assert read_kept_options(program) == {"last": 1}  # --no-history is only for that message
    program("say", "two")
    program("say", "three")
    assert read_sent_contents(chat_server) == ["Be brief.", *make_turn_contents("two"), "three"]


# --- dry runs ---


def test_a_dry_run_says_what_is_left_out_and_which_older_messages_are_sent(
    talk: Program, chat_server: ChatServer
) -> None:
    talk("pin", "2")
    ran = talk("say", "four", "--last", "1", "--dry-run", "--no-stream")
    assert ran.code == 0
    assert [message["content"] for message in ran.json["messages"]] == [
        "Be brief.",
        "one",
        *make_turn_contents("three"),
        "four",
    ]
    first, second = ran.err.splitlines()
    assert first == (
        "convstore: 3 of 7 messages of the history are left out; 4 are sent: "
        "system messages (seq 1) and pinned messages (seq 2), and all from seq 6"
    )
    assert second.startswith("convstore: about ")
    assert second.endswith(" tokens")
    ran = talk("say", "four", "--no-history", "--dry-run")
    assert ran.err.splitlines()[0] == "convstore: 7 of 7 messages of the history are left out; 0 are sent"
    assert len(chat_server.requests) == 3


def test_a_dry_run_of_the_whole_history_prints_its_size_only_on_a_terminal(talk: Program) -> None:
    assert talk("say", "four", "--dry-run").err == ""
    assert "tokens" in talk("say", "four", "--dry-run", terminal=True).err


def test_a_dry_run_prints_the_request_that_is_sent(talk: Program, chat_server: ChatServer) -> None:
    for options in (["--last", "1"], ["--max-context", "40"], ["--no-history"], []):
        dry = talk("say", "four", *options, "--dry-run").json
        talk("say", "four", *options)
        assert chat_server.requests[-1].body == dry
        talk("undo")


def test_the_notes_of_a_dry_run_do_not_drive_the_terminal(program: Program, chat_server: ChatServer) -> None:
    call = {"id": "c\x1b[2J", "type": "function", "function": {"name": "f\x1b[2J", "arguments": "{}"}}
    chat_server.script(Reply(message={"role": "assistant", "content": None, "tool_calls": [call]}))
    program("new")
    program("say", "hi")
    ran = program("say", "four", "--dry-run", "--fill-missing-tools", terminal=True)
    assert "placeholders answer c" in ran.err
    assert is_tame(ran.out + ran.err)


def test_only_the_first_of_many_older_messages_are_listed() -> None:
    system = tuple(map(Seq, range(1, 13)))
    report = WindowReport(history=12, from_seq=Seq(30), tokens=12345, left_out=5, context=system)
    first, second = explain_window(report)
    assert first.endswith(": system messages (seq 1, 2, 3, 4, 5, 6, 7, 8 … 4 more), and all from seq 30")
    assert second == "about 12,345 tokens"
