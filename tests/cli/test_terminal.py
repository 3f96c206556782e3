"""Test the program on a terminal: control characters, streams, Ctrl-C and pipes."""

import os
import select
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program, Rows, command
from tests.cli.screen import ScreenTerminal
from tests.cli.terminal import OUR_COLOURS, Terminal, is_tame, read_screen
from tests.processes import ROOT, can_fork_program, write_program

WILD = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\x08e\rf\x7fg\x90h\x0bi\tj"
COLOURS = ("\x1b[1m", "\x1b[2m")


# --- no text drives the terminal ---


@pytest.mark.parametrize("mode", [[], ["--no-stream"], ["--json"]])
def test_a_models_text_does_not_drive_the_terminal(program: Program, chat_server: ChatServer, mode: list[str]) -> None:
    chat_server.script(Reply(WILD, pieces=list(WILD)))
    program("new")
    screen = read_screen("say", "hi", *mode)
    assert is_tame(screen.replace("\t", ""))
    assert "owned" in screen
    assert program("show", "--json").json["messages"][1]["message"]["content"] == WILD


@pytest.mark.parametrize(
    "command",
    [
        *(["show"], ["show", "--json"], ["list"], ["list", "--json"], ["set", "--title", WILD + "2"]),
        *(["set", "-o", "user", WILD, "--json"], ["say", "next"], ["say", WILD, "--dry-run"], ["show", WILD]),
        *(["say", "hi", "-c", "twin"], ["new", "--name", WILD], ["say", "hi", "--base-url", WILD], [WILD]),
        *(["say", "hi", "--" + WILD], ["new", "--meta", WILD], ["show", "--db", f"/nowhere/{WILD}"]),
    ],
    ids=lambda command: " ".join(command).replace(WILD, "WILD").encode("ascii", "replace").decode(),
)
def test_no_stored_or_typed_text_drives_the_terminal(
    program: Program, chat_server: ChatServer, command: list[str]
) -> None:
    call = {"id": WILD, "type": "function", "function": {"name": WILD, "arguments": WILD}}
    chat_server.script(
        Reply(message={"role": "assistant", "content": WILD, "name": WILD, "tool_calls": [call]}), Failure(500, WILD)
    )
    program("new", WILD, "--id", "twin1")
    program("new", WILD, "--id", "twin2", "-m", WILD, "-o", WILD, WILD, "--meta", f"{WILD}={WILD}")
    program("say", WILD)
    program("say", WILD)
    ran = program(*command, terminal=True)
    assert ran.out + ran.err
    assert is_tame((ran.out + ran.err).replace("\t", ""))
    if command in (["show"], ["list", "--json"]):  # a real terminal shows the same as the stream that reports to be one
        assert read_screen(*command).endswith(ran.out)


def test_a_providers_error_does_not_drive_the_terminal(program: Program, chat_server: ChatServer) -> None:
    program("new")
    chat_server.script(Failure(500, WILD), Reply("x", error_event={"message": WILD}, error_after=0))
    for _ in range(2):
        ran = program("say", "hi", terminal=True)
        assert "owned" in ran.err
        assert is_tame(ran.out + ran.err)


def test_a_pipe_gets_the_exact_bytes(program: Program, chat_server: ChatServer) -> None:
    chat_server.script(Reply(WILD))
    program("new")
    assert program("say", "hi").out == WILD + "\n"
    assert WILD in program("show").out
    assert "\x1b[1m" not in program("show").out


# --- notes for a person ---


def test_the_conversation_used_last_is_named_on_stderr_of_a_terminal(program: Program) -> None:
    identity = program("new", "Olympics").out.strip()
    ran = program("say", "hi")
    assert identity not in ran.out + ran.err
    with Terminal("say", "hi", out=subprocess.DEVNULL) as terminal:
        assert terminal.end() == 0
        assert f"({identity} Olympics)" in terminal.screen
    assert program("show", terminal=True).err.count(identity) == 1
    assert (
        program("say", "hi", "-c", identity, terminal=True).err == ""
    )  # a user who named the conversation knows its id
    ran = program("say", "--new", "other", terminal=True)
    assert f"({program('list', '--json').json[0]['id']})" in ran.err


def test_no_color_and_a_dumb_terminal_have_no_colours(program: Program) -> None:
    program("new", "Olympics", "--temperature", "1")
    program("say", "hi")
    coloured = program("show", terminal=True).out
    assert all(colour in coloured for colour in COLOURS)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        program.set(NO_COLOR=None, TERM="xterm")
        program.set(**{name: value})
        plain = program("show", terminal=True).out
        assert "\x1b" not in plain
        assert plain == OUR_COLOURS.sub("", coloured)


def test_a_search_marks_what_it_found_in_bold(program: Program) -> None:
    program("new")
    program("say", "Who won most medals?")
    assert "Who won most \x1b[1mmedals\x1b[0m?" in program("search", "medals", terminal=True).out
    assert "Who won most »medals«?" in program("search", "medals").out


def test_a_message_can_be_typed(program: Program, chat_server: ChatServer) -> None:
    program("new")
    screen = read_screen("say", feed="two\nlines\n\x04")
    assert "Ctrl-D" in screen
    assert chat_server.requests[-1].body["messages"][-1]["content"] == "two\nlines"


# --- streams ---


def test_a_reply_is_printed_as_it_arrives(program: Program, chat_server: ChatServer) -> None:
    go = threading.Event()
    chat_server.script(Reply("first second", pieces=["first", " second"], hold=go, hold_after=1))
    program("new")
    with subprocess.Popen(command("say", "hi"), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], 30)[0]
            assert os.read(process.stdout.fileno(), 100) == b"first"  # the server holds back the rest
        finally:
            go.set()
        assert process.stdout.read() == b" second\n"
        assert process.wait(30) == 0


# --- interrupted ---


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_an_interrupted_stream_keeps_the_partial_reply(
    program: Program, chat_server: ChatServer, rows: Rows, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    held = Reply("first second", pieces=["first", " second"], hold=threading.Event(), hold_after=1)
    chat_server.script(held)
    program("new")
    with Terminal("say", "hi", "--plain") as terminal:
        terminal.until("first")
        terminal.interrupt(number)
        assert terminal.end() == code
        assert "first\nconvstore: stopped; the partial reply is kept\n" in OUR_COLOURS.sub("", terminal.screen)
    assert chat_server.wait_disconnect()  # the connection was closed, so the provider can stop
    assert [file.name for file in tmp_path.glob("*.db*")] == ["chat.db"]  # no log is left
    assert [status for status, _ in rows.turns] == ["interrupted"]
    assert "2 assistant (interrupted)\nfirst\n" in program("show").out
    assert "1 user\nhi\n" in program("show", "--last", "2").out
    assert program("say", "next").code == 0
    assert [message["content"] for message in chat_server.requests[-1].body["messages"]] == ["hi", "first", "next"]


@pytest.mark.parametrize("mode", [[], ["--no-stream"], ["--json"]])
def test_ctrl_c_before_the_reply_began_leaves_nothing_on_the_path(
    program: Program, chat_server: ChatServer, rows: Rows, mode: list[str]
) -> None:
    started = threading.Event()
    chat_server.script(Reply("never", hold=threading.Event(), started=started))
    program("new")
    with Terminal("say", "hi", *mode) as terminal:
        assert started.wait(30)
        terminal.interrupt()
        assert terminal.end() == 130
        assert "convstore: stopped; your message is kept; `convstore retry` asks again\n" in terminal.screen
        assert "Traceback" not in terminal.screen
    assert [status for status, _ in rows.turns] == ["interrupted"]
    assert "not answered: stopped by the user" in program("show").out
    assert program("say", "next").code == 0
    assert [message["content"] for message in chat_server.requests[-1].body["messages"]] == ["next"]


def test_ctrl_c_while_waiting_for_another_turn_sends_nothing(
    program: Program, chat_server: ChatServer, rows: Rows
) -> None:
    go, started = threading.Event(), threading.Event()
    chat_server.script(Reply("first", hold=go, started=started))
    program("new")
    other = threading.Thread(target=program.real, args=("say", "one"))
    other.start()
    try:
        assert started.wait(30)
        with Terminal("say", "two") as terminal:
            terminal.until("waiting for a running turn of this conversation; Ctrl-C gives up")
            terminal.interrupt()
            assert terminal.end() == 130
            assert "convstore: stopped; nothing was stored\n" in terminal.screen
            assert "Traceback" not in terminal.screen
            assert "unexpected" not in terminal.screen
    finally:
        go.set()
        other.join()
    assert [status for status, _ in rows.turns] == ["completed"]
    assert len(chat_server.requests) == 1


def test_retry_names_the_message_that_it_sends_again(program: Program, chat_server: ChatServer) -> None:
    program("new")
    program("say", "What is the weather in the capital of China, and will it stay so until the end of the week?")
    ran = program("retry", terminal=True)
    assert "asks again: What is the weather in the capital of China" in ran.err


# --- closed and full outputs ---


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an executable `convstore` that is forked: a new Python takes ten times as long."""
    folder = tmp_path_factory.mktemp("programs")
    write_program(folder)
    return folder


def run_in_shell(shell: str, programs: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a shell command in which `convstore` is the real program.

    Args:
        programs: the folder with that program; None starts a new Python for each.
    """
    if programs is None:
        shell = f'convstore() {{ "$PYTHON" -m convstore "$@"; }}; {shell}'
        environment = {"PYTHON": str(command()[0])}
    else:
        assert can_fork_program()
        environment = {"PATH": os.pathsep.join((str(programs), os.environ["PATH"]))}
    return subprocess.run(
        ["bash", "-c", shell],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


NEW = None
"""In place of the folder of programs: start a new Python. One case of each test does; its end flushes the streams."""


@pytest.mark.parametrize("what", ["list --limit 0", "show", "list --limit 0 --json"])
def test_a_pipe_that_closes_early_is_no_error(program: Program, programs: Path, what: str) -> None:
    program("new", "x" * 200_000)
    program("new", "y" * 200_000, "-m", "z" * 200_000)
    ran = run_in_shell(f"convstore {what} | head -c 1", NEW if what == "show" else programs)
    assert (len(ran.stdout), ran.stderr) == (1, "")


@pytest.mark.parametrize("what", ["list", "show", "--help", "new", "say hi --no-stream"])
def test_a_pipe_that_is_already_closed_is_no_error(program: Program, programs: Path, what: str) -> None:
    program("new", "short")
    ran = run_in_shell(f"convstore {what} | :", NEW if what == "list" else programs)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_a_pipe_that_closes_during_a_stream_stops_it(
    program: Program, programs: Path, chat_server: ChatServer, rows: Rows
) -> None:
    pieces = ["first line\n", *(f"{number}\n" for number in range(3000))]
    chat_server.script(Reply(pieces=pieces, delay=0.001))
    program("new")
    ran = run_in_shell("convstore say hi | head -1", programs)
    assert (ran.stdout, ran.stderr) == ("first line\n", "")
    [(status, _)] = rows.turns
    assert status == "interrupted"
    assert program("show", "--json").json["messages"][1]["message"]["content"].startswith("first line\n")


@pytest.mark.parametrize("mode", ["", "--no-stream", "--json"])
def test_a_full_disk_at_stdout_is_reported_in_one_line_and_loses_nothing(
    program: Program, programs: Path, chat_server: ChatServer, mode: str
) -> None:
    program("new")
    chat_server.script(Reply(pieces=[f"{number} " * 1000 for number in range(20)]))
    ran = run_in_shell(f"convstore say hi {mode} > /dev/full; echo $? >&2", programs if mode else NEW)
    assert ran.stderr == "convstore: cannot write to stdout: No space left on device\n1\n"
    content = program("show", "--json").json["messages"][1]["message"]["content"]
    assert content == "".join(f"{number} " * 1000 for number in range(20))
    [turn] = program("turns", "--json").json
    assert turn["status"] == "completed"


@pytest.mark.parametrize("what", ["list", "show", "turns --json", "--help"])
def test_every_command_says_that_it_cannot_write_to_stdout(program: Program, programs: Path, what: str) -> None:
    program("new", "short")
    ran = run_in_shell(f"convstore {what} > /dev/full; echo $? >&2", NEW if what == "--help" else programs)
    assert ran.stderr == "convstore: cannot write to stdout: No space left on device\n1\n"


def test_closed_streams_are_no_error(program: Program, chat_server: ChatServer) -> None:
    program("new")
    ran = run_in_shell("convstore say hi <&- >&- 2>&-; echo $?")
    assert (ran.stdout, ran.stderr) == ("0\n", "")
    assert program("list", "--json").json[0]["messages"] == 2
    ran = run_in_shell("convstore say <&-; echo $?")
    assert (ran.stdout, ran.stderr) == ("2\n", "convstore: the message is empty\n")


def test_a_long_note_is_broken_between_words_and_not_in_a_command(program: Program, tmp_path: Path) -> None:
    program.set(COLUMNS=None, LINES=None)
    with ScreenTerminal("purge", "--older-than", "0d", columns=40) as terminal:
        assert terminal.end() == 2
        lines = terminal.lines
    shown = [line for line in lines if line]
    assert shown[0].startswith("convstore: --older-than 0 would purge")
    assert all(len(line) <= 40 for line in shown)
    assert any("`convstore purge --help`)" in line for line in shown)
    piped = program("purge", "--older-than", "0d").err.splitlines()
    assert piped == [" ".join(shown)]
