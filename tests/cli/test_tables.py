"""Test the tables on a terminal, and the pager for long output."""

import os
import re
from pathlib import Path
from unicodedata import east_asian_width

import pytest

from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program
from tests.cli.terminal import OUR_COLOURS, Terminal, is_tame, read_screen

WILD = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md"


def measure(line: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in line)


def read_table(program: Program, *command: str, width: int) -> list[str]:
    """Return the lines of a table on a terminal of a width, without colours."""
    program.set(COLUMNS=str(width))
    lines = OUR_COLOURS.sub("", program(*command, terminal=True).out).splitlines()
    assert [line for line in lines if measure(line) > width] == []
    return lines


# --- the width ---


@pytest.mark.parametrize("width", [40, 80, 200])
def test_list_fits_the_terminal_and_has_a_header(program: Program, width: int) -> None:
    program("new", "奥林匹克运动会" * 20, "--name", "games", "--id", "a" * 60, "-m", "gpt-x")
    program("new", "short", "--id", "b")
    header, second, first = read_table(program, "list", width=width)
    assert "ID MSGS UPDATED MODEL NAME · TITLE".startswith(" ".join(header.split()))
    assert second.startswith("b ")
    assert first.startswith("aaaaaa")
    if width == 200:
        assert "games · 奥林匹克" in first
        assert measure(first[: first.index("gpt-x")]) == measure(header[: header.index("MODEL")])
        assert first.endswith("…")


def test_output_that_is_not_for_a_terminal_stays_as_it_is(program: Program, chat_server: ChatServer) -> None:
    program.set(COLUMNS="20", LINES="2", PAGER="false")
    program("new", "T" * 100, "--id", "games", "--name", "n", "-m", "gpt-x")
    chat_server.script(Reply("one"), Failure(400, "no " * 50))
    program("say", "first " * 30)
    program("say", "second")
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.fullmatch(rf"games             2  {moment}  gpt-x {{19}}  n · T{{100}}\n", program("list").out)
    asked = ("first " * 30)[:59]
    assert re.fullmatch(
        rf"   1  completed    {moment} +\d+\.\ds +\d+\+\d+  {asked}…\n"
        rf"   2  failed       {moment} +\d+\.\ds            -  second\n"
        rf"      {('no ' * 50).strip()}\n",
        program("turns").out,
    )
    assert program("usage").out.splitlines()[0].split() == [
        *("turns", "failed", "prompt", "cached", "completion", "reasoning", "cost", "USD", "median", "p95")
    ]


def test_turns_shows_the_model_and_all_of_an_error(program: Program, chat_server: ChatServer) -> None:
    program("new")
    chat_server.script(Reply("one", model="gpt-other"), Failure(400, "no " * 50))
    program("say", "first " * 30, "-m", "gpt-x")
    program("say", "second", "-m", "gpt-y")
    header, first, second, *error = read_table(program, "turns", width=70)
    assert header.split()[:6] == ["TURN", "STATUS", "STARTED", "TIME", "TOKENS", "MODEL"]
    assert "gpt-other" in first
    assert "gpt-y" in second
    assert len(error) > 1
    assert " ".join(error).split() == ["no"] * 50


@pytest.mark.parametrize(("width", "hidden"), [(60, True), (200, False)])
def test_usage_leaves_out_columns_on_a_narrow_terminal_and_says_so(program: Program, width: int, hidden: bool) -> None:
    program("new", "奥林匹克运动会" * 20)
    program("say", "hi", "-m", "gpt-x")
    lines = read_table(program, "usage", "--by", "conversation", width=width)
    assert ("reasoning" in lines[0]) != hidden
    assert all(word in lines[0] for word in ("turns", "prompt", "completion", "cost"))
    ran = program("usage", terminal=True)
    assert ("too narrow for p95, reasoning" in ran.err) == hidden


def test_usage_fits_into_forty_columns(program: Program) -> None:
    program("new", "Games")
    program("say", "hi", "-m", "gpt-x")
    for by in ([], ["--by", "conversation"], ["--by", "model"]):
        lines = read_table(program, "usage", *by, width=40)
        assert max(map(len, lines)) <= 40
        assert all(word in lines[0] for word in ("turns", "cost"))


# --- deleted conversations, and the model of a fork ---


def test_deleted_conversations_can_be_listed(on_each: Program) -> None:
    on_each("new", "--id", "kept")
    assert (on_each("list", "--deleted").out, on_each("list", "--deleted", "--json").out) == ("", "[]\n")
    on_each("new", "--id", "old", "Old")
    on_each("delete", "old")
    assert [found["id"] for found in on_each("list", "--deleted", "--json").json] == ["old"]
    assert [found["id"] for found in on_each("list", "--json").json] == ["kept"]
    assert on_each("list", "--deleted").out.endswith("Old\n")
    on_each("restore", "old")
    assert on_each("list", "--deleted", "--json").json == []


def test_a_fork_shows_the_model_of_the_past_that_it_shares(on_each: Program) -> None:
    on_each("new", "--id", "origin")
    on_each("say", "hi", "-m", "gpt-first")
    on_each("fork", "--id", "fork1")
    on_each("say", "hi", "-c", "origin", "-m", "gpt-later")
    on_each("fork", "fork1", "--id", "fork2")
    models = {found["id"]: found["model"] for found in on_each("list", "--json").json}
    assert models == {"origin": "gpt-later", "fork1": "gpt-first", "fork2": "gpt-first"}
    on_each("say", "hi", "-c", "fork2", "-m", "gpt-own")
    assert {found["id"]: found["model"] for found in on_each("list", "--json").json}["fork2"] == "gpt-own"


# --- the pager ---


@pytest.fixture
def pager(program: Program, tmp_path: Path) -> Path:
    """Make a pager that prints to a file, and return the file."""
    script, paged = tmp_path / "my-pager", tmp_path / "paged"
    script.write_text(f'#!/bin/sh\necho "LESS=$LESS $1" > "{paged}"\ncat >> "{paged}"\necho PAGED\n')
    script.chmod(0o755)
    program.set(PAGER=str(script), LINES="10")
    program("new", "--id", "games")
    for number in range(12):
        program("say", f"question {number} {WILD}")
    return paged


@pytest.mark.parametrize("command", ["show", "show --tree", "turns", "usage --by owner", "list"])
def test_output_that_is_longer_than_the_screen_goes_through_the_pager(
    program: Program, pager: Path, command: str
) -> None:
    for number in range(12):
        program("new", f"{number} {WILD}", "--owner", f"o{number}")
        program("say", "hi", "--owner", f"o{number}")
        program("new", f"{number} {WILD}", "--name", f"n{number}")
    words = [*command.split(), *(["games"] if command.split(maxsplit=1)[0] in ("show", "turns") else [])]
    screen = read_screen(*words)
    assert "PAGED\n" in screen
    first, text = pager.read_text().split("\n", 1)
    assert first == "LESS=FRX "
    assert is_tame(text)
    assert read_screen(*words, "--no-pager").startswith(text)  # notes may follow
    assert text.count("\n") > 10


def test_short_output_json_and_pipes_have_no_pager(program: Program, pager: Path) -> None:
    for command in (["list"], ["turns", "-n", "2"], ["usage"]):
        assert read_screen(*command).count("\n") < 10
    assert "question 11" in read_screen("turns", "games", "--json", "--limit", "0")
    assert "question 11" in program.real("show").out
    assert not pager.exists()
    program.set(TERM="dumb")
    assert "question 11" in read_screen("show")
    assert not pager.exists()


@pytest.mark.parametrize("value", ["", " ", "cat", "/nowhere/pager", "no-such-pager -R", "exit 127; x"])
def test_without_a_pager_the_output_is_printed(program: Program, pager: Path, value: str) -> None:
    program.set(PAGER=value)
    with Terminal("show", "games") as terminal:
        assert terminal.end() == 0
    assert "question 11" in terminal.screen
    assert "not found" not in terminal.screen
    assert not pager.exists()


@pytest.mark.parametrize("value", ["true", "head -1", "exit 3; x", "kill -9 $$; x"])
def test_a_pager_that_ends_early_is_no_error(program: Program, pager: Path, value: str) -> None:
    program.set(PAGER=value)
    program("say", "x" * 300_000)
    with Terminal("show", "games") as terminal:
        assert terminal.end() == 0
    assert "convstore" not in terminal.screen


def test_less_is_the_default_and_users_options_are_kept(
    program: Program, pager: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "less").symlink_to(tmp_path / "my-pager")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program.set(PAGER=None)
    read_screen("show", "games")
    assert pager.read_text().startswith("LESS=FRX \n")
    program.set(LESS="-S", PAGER="less --mine")
    read_screen("show", "games")
    assert pager.read_text().startswith("LESS=-S --mine\n")


def test_an_error_after_the_first_lines_is_shown_without_the_pager(program: Program, pager: Path) -> None:
    screen = read_screen("show", "nosuch")
    assert "no conversation 'nosuch'" in screen
    assert not pager.exists()
