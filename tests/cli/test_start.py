"""Test which modules the program imports, and what its help says."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from convstore import Store
from convstore.cli import _COMMANDS, convstore
from tests.cli.program import Program, commands_of, run_python
from tests.processes import ROOT


def is_python(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").is_file()


PACKAGE = ROOT / "convstore"
LIGHT = {"__init__.py", "__main__.py", "cli", "errors.py"}
# Each folder and module of the package except those of the command line. They are read from the source tree, so the
# list is never out of date.
OURS = {f"convstore.{path.stem}" for path in PACKAGE.iterdir() if path.name not in LIGHT and is_python(path)}
THEIRS = {
    "sqlalchemy",
    "openai",
    "alembic",
    "rich",
    "pydantic",
    "platformdirs",
    "httpx",
    "psycopg",
    "sqlite3",
    "asyncio",
    "prompt_toolkit",
    "pygments",
    "markdown_it",
    "termios",
}
HEAVY = OURS | THEIRS | {"logging"}
OF_MODEL_AND_SCHEMA = {"openai", "alembic", "rich", "pydantic", "httpx", "platformdirs", "sqlalchemy.orm"}
"""Modules that only a call of the model or a change of the schema needs."""
LOADED = """
import json, sys
from convstore.cli import main
for line in json.loads(sys.argv[1]):
    sys.argv = ["convstore", *line]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
    print("\\n" + json.dumps([line, sorted(sys.modules)]))
"""


def list_loaded_modules(*lines: list[str]) -> list[tuple[list[str], set[str]]]:
    """Run command lines one after another in a new Python; return each with the modules loaded at its end."""
    printed = run_python(LOADED, json.dumps(lines)).splitlines()
    found = [json.loads(text) for text in printed if text.startswith("[[")]
    assert [line for line, _ in found] == list(lines)
    return [(line, set(modules)) for line, modules in found]


def walk_commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    for name, command in commands_of(group).items():
        if isinstance(command, click.Group):
            yield from walk_commands(command, (*path, name))
        else:
            yield (*path, name), command


EVERY = list(walk_commands(convstore))
NAMES = [" ".join(path) or "convstore" for path, _ in EVERY]


def test_the_program_has_exactly_these_commands() -> None:
    assert set(NAMES) == {
        *(
            "convstore",
            "new",
            "say",
            "chat",
            "show",
            "list",
            "search",
            "import",
            "set",
            "retry",
            "turns",
            "follow",
            "stop",
        ),
        *("undo", "redo", "edit", "checkout", "fork", "pin", "unpin", "compact", "tool-result", "delete", "restore"),
        *("serve", "keys", "keys create", "keys list", "keys revoke"),
        *("purge", "redact", "retention", "retention set", "retention show", "retention unset", "retention run"),
        *("archive", "unarchive", "tag", "untag", "tags", "rate", "title", "export", "resume"),
        *("usage", "db", "db upgrade", "db current", "db check", "db verify", "db reindex", "db backup", "db restore"),
        *("db copy", "db stats"),
        *("templates", "templates list", "templates show", "templates edit", "templates delete"),
        *("open", "models", "prices", "prices check", "prices set", "prices unset"),
        *("completion", "doctor", "config", "config set", "config unset", "config edit", "config path", "config trust"),
    }


def test_help_and_version_import_click_and_nothing_heavier() -> None:
    # What one command line loads stays loaded for the next ones: the first one that fails is to blame.
    for line, modules in list_loaded_modules(["--version"], *([*path, "-h"] for path, _ in EVERY)):
        assert "click" in modules
        assert modules & HEAVY == set(), line


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_and_version_of_the_program_import_little_of_pythons_own(option: str) -> None:
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from convstore.cli import main; main()"
    loaded = set(run_python(code, option).split())
    assert "convstore.cli" in loaded
    assert loaded & {"pathlib", "json", "traceback", "logging", "dataclasses"} == set()


def test_the_list_of_folders_is_read_from_the_package() -> None:
    assert {"convstore.store", "convstore.db", "convstore.turns", "convstore.values", "convstore.messages"} <= OURS
    [(_, modules)] = list_loaded_modules(["list", "--db", ":memory:"])
    assert modules >= {
        "convstore.store",
        "convstore.db",
        "convstore.values",
    }  # `list_loaded_modules` finds modules of these folders


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_list_and_show_import_neither_openai_nor_alembic(
    bare: Program, request: pytest.FixtureRequest, kind: str
) -> None:
    bare.set(CONVSTORE_DB=request.getfixturevalue("sqlite_url" if kind == "sqlite" else "postgres_url"))
    bare("new", "--system", "Be brief.")
    for line, modules in list_loaded_modules(
        ["list"], ["show"], ["search", "brief"], ["list", "--json"], ["show", "--json"]
    ):
        assert "convstore.store.finder" in modules
        assert modules.isdisjoint(OF_MODEL_AND_SCHEMA), line


def test_a_command_that_only_reads_imports_nothing_that_asks_a_model(bare: Program, sqlite_url: str) -> None:
    bare.set(CONVSTORE_DB=sqlite_url)
    bare("new", "--system", "Be brief.")
    for line, modules in list_loaded_modules(["list"], ["show"], ["search", "brief"], ["turns"], ["usage"]):
        assert "convstore.store.find_methods" in modules
        assert not [name for name in modules if name.startswith(("convstore.turns", "convstore.provider"))], line


def test_list_imports_nothing_that_reads_messages_or_searches(bare: Program, sqlite_url: str) -> None:
    bare.set(CONVSTORE_DB=sqlite_url)
    bare("new", "--system", "Be brief.")
    [(_, modules)] = list_loaded_modules(["list"])
    assert "convstore.store.finder" in modules
    assert not modules & {"convstore.db.history_rows", "convstore.db.message_rows", "convstore.db.conversation_writes"}
    assert not modules & {"convstore.messages.token_estimate", "convstore.usage.prices", "convstore.db.search_index"}
    assert not [name for name in modules if name.startswith(("convstore.context", "convstore.search"))]


def test_what_renders_and_prompts_is_imported_only_on_a_terminal(program: Program) -> None:
    program("new", "--name", "games")
    rendering = {"rich", "prompt_toolkit", "pygments", "markdown_it"}
    lines = (
        ["show", "games"],
        ["chat", "games"],
        ["follow", "games"],
        ["search", "games"],
        ["say", "hi", "-c", "games"],
    )
    for line, modules in list_loaded_modules(*lines):
        assert modules.isdisjoint(rendering), line


def test_the_overview_of_commands_and_completion_import_no_command(bare: Program) -> None:
    [(_, of_overview)] = list_loaded_modules(["--help"])
    bare.set(_CONVSTORE_COMPLETE="bash_complete", COMP_WORDS="convstore s", COMP_CWORD="1")
    [(_, of_completion)] = list_loaded_modules([])
    assert "click.shell_completion" in of_completion
    for modules in (of_overview, of_completion):
        assert not [name for name in modules if name.startswith("convstore.cli.commands.")]


def test_the_overview_says_what_each_command_says() -> None:
    for name, (_, summary) in _COMMANDS.items():
        command = convstore.get_command(click.Context(convstore), name)
        assert command is not None
        assert command.get_short_help_str(1000) == summary


def test_completion_offers_the_commands_and_their_help() -> None:
    context = click.Context(convstore)
    offered = {item.value: item.help for item in convstore.shell_complete(context, "s")}
    assert offered == {name: summary for name, (_, summary) in _COMMANDS.items() if name.startswith("s")}
    assert {"-V", "--version"} <= {item.value for item in convstore.shell_complete(context, "-")}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_commands_that_call_no_model_import_neither_openai_nor_alembic(
    bare: Program, request: pytest.FixtureRequest, kind: str
) -> None:
    bare.set(CONVSTORE_DB=request.getfixturevalue("sqlite_url" if kind == "sqlite" else "postgres_url"))
    bare.set(CONVSTORE_MODEL="m")
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    bare("new", "--name", "games", "--system", "Be brief.")
    with Store() as store:
        id = store.get("games").id
        store.append(
            id, "one", {"role": "assistant", "content": "1"}, "two", {"role": "assistant", "tool_calls": calls}
        )
    lines = [
        *(["tool-result", "call_1", "x"], ["undo"], ["redo"], ["checkout", "3"], ["pin", "2"], ["unpin", "2"]),
        *(["set", "--last", "3"], ["say", "hi", "--dry-run"], ["turns"], ["show", "--tree"], ["compact", "--drop"]),
        *(
            ["fork", "games", "--name", "copy"],
            ["delete", "games"],
            ["restore", id],
            ["show", "copy", "--tree", "--json"],
        ),
    ]
    for line, modules in list_loaded_modules(*lines):
        assert modules.isdisjoint(OF_MODEL_AND_SCHEMA), line
    assert ("sqlalchemy.dialects.postgresql" in modules) == (kind == "postgresql")


@pytest.mark.parametrize(("path", "command"), EVERY, ids=NAMES)
def test_every_command_has_an_example_and_every_option_has_help(
    bare: Program, path: tuple[str, ...], command: click.Command
) -> None:
    short, long = bare(*path, "-h"), bare(*path, "--help")
    assert (short.code, short.err, short) == (0, "", long)
    assert f"Usage: {' '.join(('convstore', *path))} " in short.out
    assert "Examples:\n" in short.out
    assert f"    {' '.join(('convstore', *path))}" in short.out.split("Examples:\n")[1] or "$(convstore" in short.out
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.opts[-1] in short.out
    assert max(map(len, short.out.splitlines())) <= 100


@pytest.mark.parametrize(("path", "command"), EVERY, ids=NAMES)
def test_summaries_are_not_cut(bare: Program, path: tuple[str, ...], command: click.Command) -> None:
    if isinstance(command, click.Group):
        assert "..." not in bare(*path, "-h").out.split("Commands:")[1].split("Examples:")[0]


@pytest.mark.parametrize("path", [[], ["db"]], ids=str)
def test_a_group_alone_prints_its_help_as_an_error(bare: Program, path: list[str]) -> None:
    ran = bare(*path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == bare(*path, "-h").out


def test_the_version_is_printed(bare: Program) -> None:
    from convstore import __version__

    assert bare("--version").out == f"convstore {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], ["nope", "convstore --help"]),
        (["--nope"], ["--nope"]),
        (["say", "--tempreature", "1"], ["--tempreature", "--temperature"]),
        (["db", "nope"], ["nope", "convstore db --help"]),
    ],
)
def test_a_misspelt_command_or_option_is_reported_in_one_line(
    bare: Program, arguments: list[str], words: list[str]
) -> None:
    bare(*arguments).failed(2, *words)


def test_a_bug_is_reported_in_one_line_that_says_how_to_see_the_traceback(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("convstore.store.find_methods.FindMethods.list", broken)
    program("list").failed(1, "RuntimeError: two lines", "CONVSTORE_DEBUG=1")
    program.set(CONVSTORE_DEBUG="1")
    assert "Traceback" in program("list").err


@pytest.mark.parametrize(
    ("word", "command"),
    [("ls", "list"), ("rm", "delete"), ("log", "turns"), ("history", "show"), ("rename", "set --name"), ("ask", "say")],
)
def test_a_command_name_of_another_program_leads_to_ours(bare: Program, word: str, command: str) -> None:
    bare(word, "games").failed(2, f"no command '{word}'; `convstore {command}` does it (")


def test_help_is_also_a_command(bare: Program) -> None:
    assert bare("help").out == bare("--help").out
    assert bare("help", "say").out == bare("say", "--help").out
    assert bare("-V").out == bare("--version").out
