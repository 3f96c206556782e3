"""Test the choice of a conversation on the terminal: where it is offered, what it shows, and how it is left."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from convstore import Store
from tests.cli.program import Program
from tests.cli.terminal import Terminal

UP, DOWN, ENTER, ESCAPE = "\x1b[A", "\x1b[B", "\r", "\x1b"
OTHER_SCREEN, USUAL_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture
def stored(program: Program, sqlite_url: str) -> Iterator[Store]:
    """Yield a store with some conversations; the program uses its database."""
    with Store(sqlite_url) as store:
        for number, title in enumerate(("Olympic games", "Tea with milk", "Coffee\x1b]0;hacked\x07"), start=1):
            conversation = store.new(title, id=f"aaa{number}")
            store.append(conversation.id, {"role": "user", "content": f"Question {number}?\x1b[31m"})
        store.tag("aaa1", "sport")
        yield store


def choose(*arguments: str, keys: tuple[str, ...], until: str = "Which conversation?") -> tuple[int, str]:
    """Run the program on a terminal, type keys one after another, and return the exit code and the screen."""
    with Terminal(*arguments, feed="") as terminal:
        terminal.until(until)
        for key in keys:
            terminal.type(key)
        return terminal.end(), terminal.screen


def test_open_prints_the_chosen_id_and_makes_it_the_one_used_last(program: Program, stored: Store) -> None:
    code, screen = choose("open", keys=(DOWN, DOWN, ENTER))
    assert code == 0
    assert screen.endswith("aaa1\n")
    assert program("show", "--json").json["id"] == "aaa1"
    assert program("open", "aaa2").out == "aaa2\n"
    assert program("show", "--json").json["id"] == "aaa2"
    assert program("open", "aaa3", "--json").json["id"] == "aaa3"


def test_open_says_if_another_conversation_is_still_the_default(program: Program, stored: Store) -> None:
    program.set(CONVSTORE_CONVERSATION="aaa1")
    assert program("open", "aaa1").err == ""
    assert "commands without REF still use 'aaa1'" in program("open", "aaa2").err


@pytest.mark.parametrize("typed", ["tea", "MILK", "milk te", "aaa2"])
def test_typing_filters_by_id_name_and_title(program: Program, stored: Store, typed: str) -> None:
    code, screen = choose("open", keys=(typed, ENTER))
    assert (code, screen.splitlines()[-1]) == (0, "aaa2")


def test_typing_filters_by_tag(program: Program, stored: Store) -> None:
    code, screen = choose("open", keys=("#sport", ENTER))
    assert (code, screen.splitlines()[-1]) == (0, "aaa1")


def test_the_last_messages_of_the_marked_conversation_are_shown(program: Program, stored: Store) -> None:
    with Terminal("open", feed="") as terminal:
        terminal.until("Question 3?")
        terminal.type(DOWN)
        terminal.until("\x1b[0m2")  # only what differs is written again: the number of the question
        terminal.type(ESCAPE)
        assert terminal.end() == 130
        assert "hacked\x07" not in terminal.screen
        assert "\x1b]0;" not in terminal.screen
        assert "\x1b[31m" not in terminal.screen.replace("\x1b[31m\x1b[0m", "")


@pytest.mark.parametrize("key", [ESCAPE, "\x03", "\x04"])
def test_leaving_changes_nothing_and_exits_with_130(program: Program, stored: Store, key: str) -> None:
    before = program("list", "--json").out
    code, screen = choose("open", keys=(key,))
    assert code == 130
    assert screen.count(OTHER_SCREEN) == screen.count(USUAL_SCREEN) == 1  # nothing of it stays on the usual screen
    assert program("list", "--json").out == before


def test_enter_without_a_match_waits(program: Program, stored: Store) -> None:
    with Terminal("open", feed="") as terminal:
        terminal.until("Which conversation?")
        terminal.type("xyz")
        terminal.until("nothing matches")
        for key in (ENTER, "\x7f\x7f\x7f", ENTER):
            terminal.type(key)
        assert terminal.end() == 0
        assert terminal.screen.splitlines()[-1] == "aaa3"


def test_an_ambiguous_reference_is_asked_on_a_terminal_and_an_error_elsewhere(program: Program, stored: Store) -> None:
    code, screen = choose("show", "aaa", keys=(DOWN, ENTER), until="Several ids begin with aaa")
    assert code == 0
    assert "Question 2?" in screen.partition(USUAL_SCREEN)[2]
    ran = program("show", "aaa")
    assert ran.code == 4
    assert "aaa1" in ran.err


def test_a_dumb_terminal_is_not_asked(program: Program, stored: Store) -> None:
    program.set(TERM="dumb")
    with Terminal("show", "aaa", feed="") as terminal:
        assert terminal.end() == 4
    program("open").failed(2, "no terminal")


def test_a_missing_reference_that_is_needed_is_asked_for(program: Program, stored: Store) -> None:
    program("delete").failed(2, "REF is missing")
    code, _ = choose("delete", keys=("tea", ENTER))
    assert code == 0
    assert [found["id"] for found in program("list", "--deleted", "--json").json] == ["aaa2"]
    code, _ = choose("restore", keys=(ENTER,))
    assert code == 0
    assert program("list", "--deleted", "--json").json == []
    code, _ = choose("archive", keys=("olympic", ENTER))
    assert [found["id"] for found in program("list", "--archived", "--json").json] == ["aaa1"]
    code, _ = choose("unarchive", keys=(ENTER,))
    assert (code, program("list", "--archived", "--json").json) == (0, [])


def test_a_missing_reference_that_has_a_default_is_not_asked_for(program: Program, stored: Store) -> None:
    with Terminal("show", feed="") as terminal:
        assert terminal.end() == 0
        assert OTHER_SCREEN not in terminal.screen


def test_without_conversations_there_is_nothing_to_choose(program: Program) -> None:
    with Terminal("open", feed="") as terminal:
        assert terminal.end() == 3
        assert "`convstore new`" in terminal.screen


def test_the_answer_is_alone_on_stdout(program: Program, stored: Store, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, Terminal("open", feed="", out=out.fileno()) as terminal:
        terminal.until("Which conversation?")
        terminal.type(ENTER)
        assert terminal.end() == 0
    assert (tmp_path / "out").read_text() == "aaa3\n"


def test_without_colours_none_are_written(program: Program, stored: Store) -> None:
    program.set(NO_COLOR="1")
    _, screen = choose("open", keys=(ESCAPE,))
    assert "\x1b[9" not in screen
