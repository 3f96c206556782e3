"""Test the forms in which people write options and arguments, and the error for a form that is wrong."""

import ast
import re
from pathlib import Path

import pytest

from convstore import errors
from convstore.cli import convstore
from convstore.testing import ChatServer
from tests.cli.program import Program, commands_of

WITHOUT_CONVERSATION = {
    *("completion", "config", "db", "doctor", "export", "import", "keys", "list", "models", "new", "prices"),
    *("purge", "retention", "serve", "tag", "tags", "templates", "title", "untag"),
}


def test_every_command_that_takes_a_conversation_has_the_option_c() -> None:
    for name, command in commands_of(convstore).items():
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert ("-c" in flags) == (name not in WITHOUT_CONVERSATION), name


@pytest.mark.parametrize(
    "command", ["show", "turns", "usage", "undo", "redo", "fork", "set", "retry", "stop", "follow"]
)
def test_a_conversation_is_named_by_the_argument_or_by_the_option(program: Program, command: str) -> None:
    program("new", "--id", "first")
    program("say", "hi")
    program("new", "--id", "second")
    more = ["--title", "T"] if command == "set" else []
    program(command, "first", "-c", "second", *more).failed(2, "'first'", "'second'", "give one of them")
    if command == "redo":
        program("undo", "first")
    ran = program(command, "-c", "first", "--conversation", "first", *more)
    assert ran.code == 0, ran
    if command in ("show", "turns"):
        assert ran.out == program(command, "first").out == program(command, "first", "-c", "first").out
        assert "hi" in ran.out


def test_delete_and_restore_take_the_option_and_need_a_conversation(program: Program) -> None:
    program("new", "--id", "first")
    program("delete").failed(2, "REF is missing", "convstore delete --help")
    program("restore").failed(2, "REF is missing", "convstore restore --help")
    assert program("delete", "-c", "first").code == 0
    program("show", "first").failed(3)
    assert program("restore", "-c", "first").code == 0
    assert program("show", "first").code == 0


def test_n_is_a_count_and_s_is_the_system_message(program: Program, chat_server: ChatServer) -> None:
    program("new", "-s", "Be brief.")
    for word in ("one", "two"):
        program("say", word)
    assert program("show", "-n", "2", "--json").json["messages"][0]["message"]["content"] == "two"
    assert len(program("turns", "-n", "1").out.splitlines()) == 1
    program("new")
    assert len(program("list", "-n", "1").out.splitlines()) == 1
    assert program("say", "three", "-s", "Be kind.").code == 0
    assert chat_server.requests[-1].body["messages"][0] == {"role": "system", "content": "Be kind."}


def test_say_new_takes_a_name_and_a_title(program: Program) -> None:
    assert program("say", "hi", "--new", "--name", "games", "--title", "Olympics").code == 0
    [found] = program("list", "--json").json
    assert (found["name"], found["title"], found["messages"]) == ("games", "Olympics", 2)
    program("say", "hi", "--new", "--name", "games").failed(5, "'games' is taken")
    program("say", "hi", "--name", "other").failed(2, "--name needs --new")
    program("say", "hi", "--title", "other").failed(2, "--title needs --new")
    assert len(program("list", "--json").json) == 1


def test_a_new_conversation_without_a_stored_message_is_not_left(program: Program, tmp_path: Path) -> None:
    program("new", "--id", "before")
    (tmp_path / "prices.toml").write_text("not a price file")
    program.set(CONVSTORE_PRICES=str(tmp_path / "prices.toml"))
    program("say", "hi", "--new", "--name", "games").failed(2, "prices")
    program.set(CONVSTORE_PRICES=None)
    assert [found["id"] for found in program("list", "--json").json] == ["before"]
    assert program("say", "hi", "--new", "--name", "games").code == 0  # the name is free


@pytest.mark.parametrize("number", ["2", "007"])
def test_undo_with_a_number_suggests_the_option(program: Program, number: str) -> None:
    program("new", "--id", "2000a")
    program("say", "one")
    program("undo", number).failed(2, f"`convstore undo -n {number}`")
    assert program("show", "--json").json["length"] == 2
    program("new", "--id", "x", "--name", number)
    program("say", "one")
    assert program("undo", number).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["set", "temperature", "0.2"], ["`--temperature 0.2`", "convstore set --help"]),
        (["set", "games", "max_tokens", "5"], ["`--max-tokens 5`"]),
        (["set", "seed", "7"], ["`-o seed 7`"]),
        (["set", "temperature=0.2"], ["unexpected 'temperature=0.2'", "`--temperature 0.2`"]),
        (["set", "games", "seed=7"], ["`-o seed 7`"]),
        (["set", "--unset", "nosuch"], ["keeps no parameter 'nosuch'", "it keeps: model, seed"]),
        (["show", "--limit", "3"], ["'--limit'; `--last` does it", "convstore show --help"]),
        (["turns", "--last", "3"], ["'--last'; `--limit` does it"]),
        (["say", "-5 degrees"], ["put `--` before a MESSAGE that begins with a dash"]),
        (["search", "->"], ["put `--` before a QUERY that begins with a dash"]),
        (["say", "- an item"], ["put `--` before a MESSAGE"]),
        (["edit", "1", "-5"], ["put `--` before a TEXT"]),
        (["new", "-5"], ["put `--` before a TITLE"]),
        (["say", "-o", "foo"], ["-o needs 2 values", "convstore say --help"]),
        (["db", "upgrade", "--nosuch"], ["convstore db upgrade --help"]),
    ],
    ids=" ".join,
)
def test_a_wrong_form_is_refused_with_the_right_one(program: Program, arguments: list[str], words: list[str]) -> None:
    program("new", "--name", "games", "-m", "gpt-x", "-o", "seed", "7")
    before = program("show", "--json").out
    program(*arguments).failed(2, *words)
    assert program("show", "--json").out == before


def test_an_unknown_option_is_not_taken_for_a_text(program: Program) -> None:
    ran = program("say", "--nosuch").failed(2, "--nosuch")
    assert "`--`" not in ran.err


def test_set_may_unset_what_has_an_option_of_its_own_twice(program: Program) -> None:
    program("new", "--temperature", "1")
    for _ in range(2):
        assert program("set", "--unset", "temperature").code == 0


def test_the_hints_for_options_name_options_that_exist() -> None:
    from convstore.cli.error_hints import _SIMILAR_OPTIONS

    commands = commands_of(convstore)
    flags = {flag for command in commands.values() for parameter in command.params for flag in parameter.opts}
    assert set(_SIMILAR_OPTIONS.values()) <= flags


@pytest.mark.parametrize("command", ["say", "edit", "retry"])
def test_the_help_of_a_call_has_its_options_in_sections(bare: Program, command: str) -> None:
    text = bare(command, "--help").out
    headings = [line.rstrip(":") for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    expected = ["Conversation", "Message", "Model", "What is sent", "Waiting", "Output"]
    assert headings == [each for each in expected if each in headings]
    assert {"Conversation", "Model", "Waiting", "Output"} <= set(headings)
    known = commands_of(convstore)[command]
    for option in known.params:
        if option.opts[-1].startswith("--"):
            assert len([line for line in text.splitlines() if re.match(rf"  (-\w, )?{option.opts[-1]}\b", line)]) == 1


def test_every_note_begins_with_the_name_of_the_program_once() -> None:
    package = Path(errors.__file__).parent / "cli"
    named = [
        (path.name, call.lineno)
        for path in package.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        if call.func.id in ("write_note", "write_terminal_note")
        if ast.unparse(call.args[0]).lstrip("f").startswith(("'convstore: ", '"convstore: '))
    ]
    assert named == []  # `write_note` puts it there
