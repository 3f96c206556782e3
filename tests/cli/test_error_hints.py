"""Test the hint after an error, which says what to type next."""

import ast
import re
from pathlib import Path

import click
import pytest

from convstore import errors
from convstore.cli import convstore
from convstore.cli.error_hints import (
    _HINT_AFTER_UNKNOWN_MODEL,
    _HINTS,
    _HINTS_AFTER_MISSING,
    _HINTS_AFTER_PURPOSES,
    NoConversationYet,
    add_hint,
)
from convstore.testing import ChatServer, Failure
from tests.cli.program import Program, commands_of

ALL_HINTS = [
    *_HINTS.values(),
    *_HINTS_AFTER_PURPOSES.values(),
    *_HINTS_AFTER_MISSING.values(),
    _HINT_AFTER_UNKNOWN_MODEL,
]


@pytest.mark.parametrize("hint", ALL_HINTS)
def test_a_hint_names_commands_and_options_that_exist(hint: str) -> None:
    commands = commands_of(convstore)
    groups = [command for command in commands.values() if isinstance(command, click.Group)]
    every = [*commands.values(), *(command for group in groups for command in commands_of(group).values())]
    flags = {flag for command in every for parameter in command.params for flag in parameter.opts}
    named = re.findall(r"`convstore ([\w-]+)", hint)
    assert set(named) <= set(commands)
    assert set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", hint)) <= flags


def test_an_error_has_the_hint_of_its_class_or_of_the_nearest_base() -> None:
    assert (
        add_hint(errors.ConversationNotFound("no 'x'")) == "no 'x'; see `convstore list` and `convstore list --deleted`"
    )
    assert add_hint(NoConversationYet("none")).startswith("none; start one with `convstore new`")
    assert add_hint(errors.InvalidParameter("wrong")) == "wrong"
    assert add_hint(errors.DatabaseError("broken")) == "broken"


def test_errors_of_the_library_name_no_command_except_those_for_databases_settings_and_the_service() -> None:
    package = Path(errors.__file__).parent
    named = {
        (path.name, command)
        for path in package.rglob("*.py")
        if not path.is_relative_to(package / "cli")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Raise, ast.Return))
        for command in re.findall(r"`convstore ([\w ]+)(?:\{option\})?`", ast.unparse(node))
        if path.name not in ("database_health.py", "provider_health.py")  # remedies of `convstore doctor`
        and path.parent.name not in ("config", "server")  # commands are how people change settings, and serve
    }
    assert named == {
        ("schema_upgrade.py", "db upgrade"),
        *((name, "db copy") for name in ("schema_upgrade.py", "reading.py")),
        ("database_copy.py", "purge"),
    }


def test_an_error_and_its_hint_are_one_line(program: Program, chat_server: ChatServer) -> None:
    program("show").failed(3, "there is no conversation yet; start one with `convstore new` or `convstore say --new`")
    identity = program("new", "--id", "games").out.strip()
    program("say", "Hi", "--expected-head", "7").failed(5, identity, "; `convstore show` shows it")
    program("new", "--id", "games", "Other").failed(
        5, "; `convstore set --name` renames one, `convstore restore` restores a deleted one"
    )
    chat_server.script(Failure(400))
    program("say", "Hi").failed(6, "; `convstore retry` sends it again")


def test_a_failed_summary_is_tried_again_with_compact(program: Program, chat_server: ChatServer) -> None:
    program("new")
    for word in ("one", "two", "three"):
        program("say", word)
    chat_server.script(Failure(400))
    ran = program("compact").failed(6, "no summary", "; `convstore compact` tries again")
    assert "retry" not in ran.err


def test_after_a_refused_message_the_hint_is_not_to_send_it_again(program: Program, chat_server: ChatServer) -> None:
    program("new")
    program("say", "Hi")
    chat_server.script(Failure(400, "Invalid value at messages[1].content"))
    program("say", "And now?").failed(6, "probably because of message 2", "see `convstore show`")


CALL_SYNTAX = re.compile(r"`[^`]*(\w\([^`]*\)|\w=[^`]*)`")


def test_no_error_that_a_command_can_print_has_the_syntax_of_a_call_in_python() -> None:
    package = Path(errors.__file__).parent
    found = {
        (path.name, text)
        for path in package.rglob("*.py")
        if not path.is_relative_to(package / "testing")
        for text in _list_texts(ast.parse(path.read_text()))
        if CALL_SYNTAX.search(text)
    }
    # Only the library can be given a time without a time zone.
    assert {name for name, _ in found} <= {"usage_report.py"}


def _list_texts(tree: ast.AST) -> list[str]:
    """Return the texts of a module, without its docstrings; `{}` stands for a value in a text."""
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts, parts = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}
            texts.append(
                "".join(str(value.value) if isinstance(value, ast.Constant) else "{}" for value in node.values)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents | parts:
            texts.append(node.value)
    return texts
