"""Test several processes that use one conversation at the same time."""

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program, Rows, Running
from tests.cli.terminal import OUR_COLOURS, Terminal, is_tame

MODES: list[list[str]] = [[], ["--no-stream"], ["--json"]]


def read_sent_contents(server: ChatServer) -> list[str]:
    return [message["content"] for message in server.requests[-1].body["messages"]]


def run_and_read_reply(program: Program, *arguments: str) -> str:
    """Run a command that succeeds, and return the reply that it prints."""
    ran = program(*arguments)
    assert (ran.code, ran.err) == (0, "")
    return str(ran.json["message"]["content"]) if "--json" in arguments else ran.out.removesuffix("\n")


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """Yield an event that releases a held reply, and set it after the test."""
    event = threading.Event()
    yield event
    event.set()


# --- idempotency keys ---


@pytest.mark.parametrize("second", MODES, ids=str)
@pytest.mark.parametrize("first", MODES, ids=str)
def test_with_the_same_key_the_model_is_called_once(
    on_each: Program, chat_server: ChatServer, first: list[str], second: list[str]
) -> None:
    on_each("new")
    chat_server.script(Reply("paid for"), Reply("twice"))
    said = [run_and_read_reply(on_each, "say", "well?", "--key", "job-17", *mode) for mode in (first, second)]
    assert said == ["paid for"] * 2
    assert len(chat_server.requests) == 1
    [turn] = on_each("turns", "--json").json
    assert turn["idempotency_key"] == "job-17"
    assert on_each("list", "--json").json[0]["messages"] == 2


def test_a_key_that_was_used_for_another_message_is_a_conflict(on_each: Program, chat_server: ChatServer) -> None:
    identity = on_each("new").out.strip()
    on_each("say", "well?", "--key", "job-17")
    for other in (["say", "other"], ["say", "well?", "-o", "seed", "1"], ["say", "well?", "--no-history"]):
        on_each(*other, "--key", "job-17").failed(5, identity, "'job-17'", "turn 1")
    assert len(chat_server.requests) == 1
    assert on_each("list", "--json").json[0]["messages"] == 2
    assert run_and_read_reply(on_each, "say", "other", "--key", "job-18") == "You said: other"


def test_a_key_belongs_to_one_conversation(program: Program, chat_server: ChatServer) -> None:
    for name in ("one", "two"):
        program("new", "--name", name)
        assert program("say", f"to {name}", "-c", name, "--key", "k").out == f"You said: to {name}\n"
    program("say", "--new", "hi", "--key", "k").failed(2, "--key or --new")
    program("say", "hi", "--key", "").failed(2, "key")
    program("say", "hi", "--key", "a\nb").failed(2, "key")
    assert len(chat_server.requests) == 2


def test_after_a_failure_the_key_is_free(program: Program, chat_server: ChatServer) -> None:
    program("new")
    chat_server.script(Failure(500), Reply("cut", finish_reason=None))
    codes = [program("say", "well?", "--key", "k").code for _ in range(4)]
    assert codes == [6, 6, 0, 0]
    assert [turn["status"] for turn in program("turns", "--json").json] == ["failed", "interrupted", "completed"]
    assert read_sent_contents(chat_server) == ["well?"]


def test_a_second_call_with_the_same_key_waits_for_the_first_reply(
    program: Program, chat_server: ChatServer, go: threading.Event
) -> None:
    chat_server.script(Reply("first second", pieces=["first", " second"], hold=go, hold_after=1))
    program("new")
    with Running("say", "hi", "--key", "k") as first:
        first.until("first")
        program("say", "hi", "--key", "k", "--no-wait").failed(5, "busy")
        with Running("say", "hi", "--key", "k", "--no-stream") as second:
            go.set()
            assert (first.end().out, second.end().out) == ("first second\n", "first second\n")
    assert len(chat_server.requests) == 1


# --- waiting ---


@pytest.mark.parametrize("how", [["--no-wait"], ["--wait", "0"], ["--wait", "0.05"]], ids=" ".join)
@pytest.mark.parametrize("command", [["say", "two"], ["say", "two", "--no-stream"], ["retry"]], ids=" ".join)
def test_a_busy_conversation_is_an_error_and_nothing_is_stored(
    program: Program, chat_server: ChatServer, rows: Rows, go: threading.Event, command: list[str], how: list[str]
) -> None:
    started = threading.Event()
    identity = program("new").out.strip()
    chat_server.script(Reply("answer", hold=go, started=started))
    with Running("say", "one") as other:
        assert started.wait(30)
        began = time.monotonic()
        program(*command, *how).failed(5, f"conversation '{identity}' is busy", "turn 1", "convstore stop")
        assert time.monotonic() - began < 10
        assert (len(rows.turns), rows.count, len(chat_server.requests)) == (1, 1, 1)
        go.set()
        assert other.end().out == "answer\n"


def test_a_call_waits_for_the_running_turn(program: Program, chat_server: ChatServer, go: threading.Event) -> None:
    started = threading.Event()
    chat_server.script(Reply("answer", hold=go, started=started))
    program("new")
    with Running("say", "one") as first:
        assert started.wait(30)
        with Running("say", "two", "--wait", "30") as second:
            go.set()
            assert (first.end().out, second.end().out) == ("answer\n", "You said: two\n")
    assert read_sent_contents(chat_server) == ["one", "answer", "two"]


# --- follow ---


def test_follow_prints_a_reply_from_beginning_to_end(
    on_each: Program, chat_server: ChatServer, go: threading.Event
) -> None:
    on_each("new", "--name", "games")
    chat_server.script(Reply("第一 second\nthird", pieces=["第", "一", " second\n", "third"], hold=go, hold_after=2))
    with Running("say", "hi") as other:
        other.until("第一")
        with Running("follow") as last_used, Running("follow", "games") as named:
            for follower in (last_used, named):
                follower.until("第一")  # the server holds back the rest
            go.set()
            whole = other.end()
            assert (whole.code, whole.out) == (0, "第一 second\nthird\n")
            assert (last_used.end(), named.end()) == (whole, whole)
    assert len(chat_server.requests) == 1


def test_follow_without_a_running_reply_prints_a_note(on_each: Program) -> None:
    on_each("follow").failed(3, "no conversation yet")
    on_each("new")
    on_each("say", "hi")
    ran = on_each("follow")
    assert (ran.code, ran.out, ran.err) == (0, "", "convstore: no reply is being streamed\n")
    on_each("follow", "nope").failed(3, "nope")


def test_follow_prints_the_partial_reply_of_a_failed_stream(
    program: Program, chat_server: ChatServer, go: threading.Event
) -> None:
    program("new")
    pieces = ["first", " second", " third"]
    chat_server.script(
        Reply(pieces=pieces, hold=go, hold_after=1, error_event={"message": "overloaded"}, error_after=2)
    )
    with Running("say", "hi") as other:
        other.until("first")
        with Running("follow") as follower:
            follower.until("first")
            go.set()
            assert other.end().code == 6
            followed = follower.end()
            assert (followed.code, followed.out) == (6, "first second\n")
            followed.one_line("the reply was cut off", "overloaded")


def test_follow_says_that_the_turn_failed(program: Program, chat_server: ChatServer, go: threading.Event) -> None:
    program("new")
    chat_server.script(
        Reply("never", hold=go, hold_after=0, error_event={"message": "no such thing"}, error_after=0),
    )
    with Running("say", "hi") as other:
        assert chat_server.wait_requests(timeout=60)
        with Running("follow") as follower:
            go.set()
            assert other.end().code == 6
            follower.end().failed(6, "turn 1", "no such thing", "`convstore retry`")
    program("follow").failed(6, "turn 1", "no such thing", "`convstore retry`")  # it failed before `follow` began
    program("retry")
    program("follow").one_line("no reply is being streamed")


def test_follow_says_that_the_reply_was_stopped(program: Program, chat_server: ChatServer, go: threading.Event) -> None:
    program("new")
    chat_server.script(Reply(pieces=["first", " second"], hold=go, hold_after=1))
    with Running("say", "hi") as other:
        other.until("first")
        with Running("follow") as follower:
            follower.until("first")
            program("stop", "--wait", "0.05")
            followed = follower.end()
            assert (followed.code, followed.out) == (0, "first\n")
            followed.one_line("the reply was stopped")
        go.set()
        other.end()


def test_a_followed_reply_does_not_drive_the_terminal(
    program: Program, chat_server: ChatServer, go: threading.Event
) -> None:
    wild = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\x08e\rf\x7fg"
    program("new")
    chat_server.script(Reply(pieces=[wild, " end"], hold=go, hold_after=1))
    with Running("say", "hi") as other:
        other.until("owned")
        with Terminal("follow") as rendered, Terminal("follow", "--plain") as terminal:
            terminal.until("owned")
            go.set()
            for each in (terminal, rendered):
                assert each.end() == 0
                assert is_tame(each.screen)
                assert "owned" in each.screen
                assert each.screen.endswith(" end\n")
        assert other.end().out == wild + " end\n"


def test_ending_follow_does_not_end_the_reply(program: Program, chat_server: ChatServer, go: threading.Event) -> None:
    program("new")
    chat_server.script(Reply(pieces=["first", " second"], hold=go, hold_after=1))
    with Running("say", "hi") as other:
        other.until("first")
        with Terminal("follow", "--plain") as terminal:
            terminal.until("first")
            terminal.interrupt()
            assert terminal.end() == 130
            assert "Traceback" not in terminal.screen
            assert terminal.screen.endswith("first\n")
        go.set()
        assert other.end().out == "first second\n"
    assert [turn["status"] for turn in program("turns", "--json").json] == ["completed"]


# --- stop ---


@pytest.mark.parametrize("by_name", [False, True], ids=["the one used last", "by its name"])
def test_stop_interrupts_a_stream_of_another_process_and_keeps_the_partial_reply(
    on_each: Program, chat_server: ChatServer, by_name: bool
) -> None:
    identity = on_each("new", "--name", "games").out.strip()
    chat_server.script(Reply(pieces=["first\n", *(f"{number}\n" for number in range(3000))], delay=0.01))
    with Running("say", "hi") as other:
        other.until("first")
        ran = on_each("stop", *(["games"] if by_name else []))
        assert (ran.code, ran.out) == (0, "")
        ran.one_line("stopped", identity, "the part of its reply that came is kept")
        stopped = other.end()
    assert chat_server.wait_disconnect()  # the connection was closed, so the provider can stop
    assert stopped.code == 130
    stopped.one_line("stopped by `convstore stop`; the partial reply is kept")
    assert stopped.out.startswith("first\n0\n")
    assert "2999" not in stopped.out
    [turn] = on_each("turns", "--json").json
    assert (turn["status"], turn["output"]) == ("interrupted", None)
    assert turn["partial"]["content"] == stopped.out
    assert "2 assistant (interrupted)\nfirst\n0\n" in on_each("show").out
    on_each("say", "next")
    assert read_sent_contents(chat_server) == ["hi", stopped.out, "next"]


def test_stop_ends_the_turn_of_a_silent_stream_and_its_late_reply_stays_off_the_path(
    program: Program, chat_server: ChatServer, go: threading.Event
) -> None:
    program("new")
    chat_server.script(Reply(pieces=["first", " second"], hold=go, hold_after=1))
    with Running("say", "hi") as other:
        other.until("first")
        with Running("follow") as follower:
            follower.until("first")  # the first piece is stored
            program("stop", "--wait", "0.05").one_line("stopped", "the part of its reply that came is kept")
            assert follower.end().out == "first\n"
        assert run_and_read_reply(program, "say", "next", "--no-wait") == "You said: next"
        assert read_sent_contents(chat_server) == ["hi", "first", "next"]
        go.set()
        late = other.end()
    assert (late.code, late.out) == (5, "first second\n")
    late.one_line("the turn was stopped before this reply came; the reply is stored off the path")
    program("say", "after")
    assert read_sent_contents(chat_server) == ["hi", "first", "next", "You said: next", "after"]
    first = program("turns", "--json").json[0]
    assert (first["status"], first["error"]["message"]) == ("interrupted", "stopped from elsewhere")


def test_stop_ends_the_turn_of_a_call_without_a_stream_and_its_late_reply_is_printed(
    program: Program, chat_server: ChatServer, go: threading.Event
) -> None:
    started = threading.Event()
    program("new")
    chat_server.script(Reply("late", hold=go, started=started))
    with Running("say", "hi", "--no-stream") as other:
        assert started.wait(30)
        program("stop", "--wait", "0").one_line("stopped the running turn")
        go.set()
        late = other.end()
    assert (late.code, late.out) == (5, "late\n")
    program("say", "next")
    assert read_sent_contents(chat_server) == ["next"]


def test_stop_without_a_running_turn_prints_a_note(on_each: Program) -> None:
    on_each("stop").failed(3, "no conversation yet")
    identity = on_each("new").out.strip()
    on_each("say", "hi")
    ran = on_each("stop")
    assert (ran.code, ran.out, ran.err) == (0, "", f"convstore: no turn of '{identity}' is running\n")
    on_each("stop", "nope").failed(3, "nope")
    on_each("stop", "--wait", "-1").failed(2, "--wait")


# --- killed processes ---


def kill_after_the_first_piece(program: Program, server: ChatServer, go: threading.Event) -> None:
    """Kill a `say` after the first piece of its reply is stored."""
    server.script(Reply(pieces=["first", " second"], hold=go, hold_after=1))
    with Running("say", "lost?") as killed:
        killed.until("first")
        with Running("follow") as follower:
            follower.until("first")
            killed.kill()


@pytest.mark.parametrize("command", [["say", "next"], ["retry"]], ids=" ".join)
def test_after_kill_9_the_next_call_works_at_once_and_the_partial_reply_stays_off_the_path(
    on_each: Program, chat_server: ChatServer, go: threading.Event, command: list[str]
) -> None:
    on_each("new")
    kill_after_the_first_piece(on_each, chat_server, go)
    assert on_each("turns", "--json").json[0]["status"] == "running"
    on_each(*command, "--wait", "10")
    assert read_sent_contents(chat_server) == (["lost?"] if command == ["retry"] else ["next"])
    first, second = on_each("turns", "--json").json
    assert (first["status"], first["output"], first["partial"]["content"]) == ("interrupted", None, "first")
    assert "the process that ran this turn ended" in first["error"]["message"]
    assert second["status"] == "completed"
    lines = on_each("turns").out.splitlines()
    assert lines[0].split()[:2] == ["1", "interrupted"]
    assert "ended" in lines[1]


def test_after_kill_9_stop_frees_the_conversation_and_keeps_the_partial_reply(
    program: Program, chat_server: ChatServer, go: threading.Event
) -> None:
    program("new")
    kill_after_the_first_piece(program, chat_server, go)
    program("stop").one_line("stopped", "the part of its reply that came is kept")
    assert "2 assistant (interrupted)\nfirst\n" in program("show").out
    program("say", "next", "--no-wait")
    assert read_sent_contents(chat_server) == ["lost?", "first", "next"]


def test_follow_ends_when_the_process_that_streams_is_killed(
    on_each: Program, chat_server: ChatServer, go: threading.Event
) -> None:
    on_each("new")
    chat_server.script(Reply(pieces=["first", " second"], hold=go, hold_after=1))
    with Running("say", "lost?") as killed:
        killed.until("first")
        with Running("follow") as follower:
            follower.until("first")
            killed.kill()
            ended = follower.end()
    assert (ended.code, ended.out) == (0, "first\n")
    ran = on_each("follow")
    assert (ran.code, ran.out) == (0, "first\n")


def test_ctrl_c_interrupts_a_stream_and_keeps_exactly_the_printed_text(
    program: Program, chat_server: ChatServer
) -> None:
    program("new")
    chat_server.script(Reply(pieces=["first\n", *(f"{number}\n" for number in range(3000))], delay=0.005))
    with Terminal("say", "hi") as terminal:
        terminal.until("first")
        terminal.interrupt(signal.SIGINT)
        assert terminal.end() == 130
    screen = OUR_COLOURS.sub("", terminal.screen)
    before, note, after = screen.partition("convstore: stopped; the partial reply is kept\n")
    assert (bool(note), after) == (True, "")
    [turn] = program("turns", "--json").json
    kept = turn["partial"]["content"]
    assert turn["status"] == "interrupted"
    assert before.endswith(kept)
