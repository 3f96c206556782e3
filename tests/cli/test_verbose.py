"""Test that `-v` and `-vv` print the log of convstore on stderr."""

import logging
from typing import Any

import pytest

from convstore.testing import ChatServer, Reply
from tests.cli.program import Program
from tests.cli.terminal import is_tame

WILD = "a\x1b]0;owned\x07b\nc"


def log_and_reply(body: dict[str, Any]) -> Reply:
    """Log at DEBUG and INFO like the library, and return a reply that echoes."""
    logger = logging.getLogger("convstore.tests")
    logger.debug("details of %s", WILD)
    logger.info("called for %s", WILD)
    logging.getLogger("another").warning("not ours")
    return Reply(f"You said: {body['messages'][-1]['content']}")


@pytest.fixture
def logging_program(program: Program, chat_server: ChatServer) -> Program:
    """Return the command line with a conversation and a server that logs each call."""
    chat_server.otherwise = log_and_reply
    program("new")
    return program


def find_test_lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("convstore.tests:")]


@pytest.mark.parametrize("mode", [[], ["--no-stream"]], ids=str)
@pytest.mark.parametrize(
    ("flags", "levels"),
    [([], []), (["-v"], ["info"]), (["-vv"], ["debug", "info"]), (["--verbose", "-v", "-v"], ["debug", "info"])],
    ids=str,
)
def test_each_v_shows_more_of_the_log_and_stdout_stays_the_same(
    logging_program: Program, mode: list[str], flags: list[str], levels: list[str]
) -> None:
    ran = logging_program("say", "hi", *mode, *flags)
    assert (ran.code, ran.out) == (0, "You said: hi\n")
    assert [line.split(": ")[1] for line in find_test_lines(ran.err)] == levels
    assert "not ours" not in ran.err
    assert all(line.startswith("convstore") for line in ran.err.splitlines())


def test_each_record_is_one_line_that_does_not_drive_the_terminal(logging_program: Program) -> None:
    ran = logging_program("say", "hi", "-vv", terminal=True)
    assert len(find_test_lines(ran.err)) == 2
    assert "owned" in ran.err
    assert is_tame(ran.err)


def test_the_log_of_one_run_is_not_shown_in_the_next(logging_program: Program) -> None:
    logger = logging.getLogger("convstore")
    before = (logger.level, list(logger.handlers))
    logging_program("say", "hi", "-v")
    assert (logger.level, list(logger.handlers)) == before
    assert logging_program("say", "hi").err == ""


def test_the_error_of_a_record_is_on_its_line(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def list_badly(*_: object, **__: object) -> list[object]:
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("convstore.tests").exception("no list")
        return []

    monkeypatch.setattr("convstore.store.find_methods.FindMethods.list", list_badly)
    ran = program("list", "-v")
    assert find_test_lines(ran.err) == ["convstore.tests: error: no list: ValueError: two lines"]


@pytest.mark.parametrize("command", [["db", "current"], ["db", "check"], ["db", "upgrade"], ["list"]], ids=" ".join)
def test_every_command_takes_v(program: Program, command: list[str]) -> None:
    quiet, verbose = program(*command), program(*command, "-vv")
    assert (verbose.code, verbose.out) == (quiet.code, quiet.out)
