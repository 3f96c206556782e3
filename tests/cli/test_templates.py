"""Test templates of new conversations: their variables, what they give, and their files."""

import stat
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.cli.terminal import Terminal

TRANSLATOR = """\
system = "Translate into $language. Keep the tone ${tone}. It costs $$5."
model = "gpt-$size"
title = "Translations into $language"

[variables]
tone = "polite"
size = "small"

[parameters]
temperature = 0.2

[window]
max-context = 8000

[[tools]]
type = "function"
[tools.function]
name = "dictionary"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of templates."""
    found = tmp_path / "home" / "config" / "convstore" / "templates"
    found.mkdir(parents=True)
    return found


def test_a_template_gives_system_model_title_parameters_window_and_tools(program: Program, folder: Path) -> None:
    (folder / "translator.toml").write_text(TRANSLATOR)
    ran = program("new", "--template", "translator", "--var", "language=Basque", "--json")
    assert ran.code == 0, ran
    assert ran.json["title"] == "Translations into Basque"
    assert ran.json["settings"] == {
        "model": "gpt-small",
        "temperature": 0.2,
        "tools": [{"type": "function", "function": {"name": "dictionary"}}],
    }
    assert ran.json["window"] == {"max_context": 8000}
    [system] = program("show", "--json").json["messages"]
    assert system["message"]["content"] == "Translate into Basque. Keep the tone polite. It costs $5."


def test_options_go_before_the_template(program: Program, folder: Path) -> None:
    (folder / "translator.toml").write_text(TRANSLATOR)
    ran = program(
        *("new", "Mine", "--template", "translator", "--var", "language=Basque", "--var", "tone=rude", "--json"),
        *("-m", "large", "--temperature", "1", "--max-context", "100"),
    )
    assert ran.json["title"] == "Mine"
    assert ran.json["settings"]["model"] == "large"
    assert ran.json["settings"]["temperature"] == 1.0
    assert ran.json["window"] == {"max_context": 100}
    assert "the tone rude" in program("show").out
    program("new", "--template", "translator", "--var", "language=Basque", "--system", "Be brief.")
    assert "Be brief." in program("show").out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["template 'translator' needs language", "--var language=…"]),
        (["--var", "language=Basque", "--var", "lang=x"], ["no variable 'lang'", "language, tone, size"]),
        (["--var", "language"], ["--var takes NAME=VALUE"]),
        (["--var", "tone=a", "--var", "tone=b"], ["'tone' is given twice"]),
    ],
)
def test_a_missing_or_wrong_variable_is_one_error(
    program: Program, folder: Path, options: list[str], words: list[str]
) -> None:
    (folder / "translator.toml").write_text(TRANSLATOR)
    program("new", "--template", "translator", *options).failed(2, *words)
    assert program("list", "--json").json == []


def test_all_missing_variables_are_named_at_once(program: Program, folder: Path) -> None:
    (folder / "two.toml").write_text("system = '$a and $b'")
    program("new", "--template", "two").failed(2, "needs a, b", "--var a=… --var b=…")


def test_a_value_with_a_dollar_sign_is_not_read_as_a_variable(program: Program, folder: Path) -> None:
    (folder / "one.toml").write_text("system = '$a'")
    assert program("new", "--template", "one", "--var", "a=$b=c").code == 0
    assert program("show", "--json").json["messages"][0]["message"]["content"] == "$b=c"


def test_an_unknown_template_names_those_that_exist(program: Program, folder: Path) -> None:
    program("new", "--template", "x").failed(
        2, "no template 'x'", "no template exists yet", "`convstore templates edit x`"
    )
    (folder / "one.toml").write_text("system = 'a'")
    program("new", "--template", "x").failed(2, "the templates are one")
    program("new", "--template", "../x").failed(2, "the name of a template")
    program("new", "--var", "a=b").failed(2, "--var needs --template")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sytem = 'a'", ["line 1", "did you mean 'system'"]),
        ("system = 'costs $5'", ["line 1", "$$"]),
        ("\nsystem = 1", ["line 2", "must be a text"]),
        ("parameters = 1", ["line 1", "must be a table"]),
        ("[variables]\na = 1", ["line 2", "must be a text"]),
        ("tools = 'x'", ["line 1", "[[tools]]"]),
        ("[parameters]\nmodel = 'x'", ["line 2", "at the top"]),
        ("[window]\nmax-contxt = 1", ["line 2", "'max-contxt'"]),
        ("nonsense", ["line 1", "not TOML"]),
    ],
)
def test_a_mistake_in_a_template_is_an_error_with_its_line(
    program: Program, folder: Path, text: str, words: list[str]
) -> None:
    (folder / "one.toml").write_text(text)
    program("new", "--template", "one").failed(2, "one.toml", *words)


def test_a_wrong_parameter_of_a_template_is_refused_as_one_of_the_command_line(program: Program, folder: Path) -> None:
    (folder / "one.toml").write_text("system = 'a'\n[parameters]\ntemperature = 9\n")
    program("new", "--template", "one").failed(2, "temperature must be")
    (folder / "two.toml").write_text("[parameters]\nmetadata = {a = 'b'}\n")
    program("new", "--template", "two").failed(2, "metadata")


def test_templates_are_listed_shown_and_deleted(program: Program, folder: Path) -> None:
    assert "no templates yet" in program("templates", "list").err
    (folder / "translator.toml").write_text(TRANSLATOR)
    (folder / "plain.toml").write_text("system = 'Be brief.'")
    ran = program("templates", "list")
    assert ran.out.splitlines() == [
        "plain       Be brief.",
        "translator (language, tone, size)  Translate into $language. Keep the tone ${tone}. It costs $$",
    ]
    assert [found["name"] for found in program("templates", "list", "--json").json] == ["plain", "translator"]
    assert program("templates", "show", "translator").out == TRANSLATOR
    (folder / "broken.toml").write_text("nonsense")
    ran = program("templates", "list")
    assert len(ran.out.splitlines()) == 2
    assert "broken.toml, line 1" in ran.err
    program("templates", "delete", "plain").failed(2, "no terminal to ask on: give --yes")
    assert program("templates", "delete", "plain", "--dry-run").out.startswith("would remove ")
    with Terminal("templates", "delete", "plain", feed="n\n") as terminal:
        assert terminal.end() == 1
    assert "plain.toml for good? [y/N]" in terminal.screen
    assert program("templates", "show", "plain").code == 0
    assert program("templates", "delete", "plain", "--yes").code == 0
    assert not (folder / "plain.toml").exists()
    program("templates", "delete", "plain").failed(2, "no template 'plain'")
    program("templates", "show", "plain").failed(2, "no template 'plain'")


def test_edit_makes_and_changes_a_template_without_mistakes_only(program: Program, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\ncp "$1" "$SEEN"\nprintf \'%s\' "$NEW_TEXT" > "$1"\n')
    editor.chmod(0o700)
    program.set(EDITOR=str(editor), VISUAL=None, NEW_TEXT="system = 'a'\n", SEEN=str(tmp_path / "seen"))
    assert program("templates", "edit", "one").code == 0
    assert "A template" in (tmp_path / "seen").read_text()
    path = tmp_path / "home" / "config" / "convstore" / "templates" / "one.toml"
    assert path.read_text() == "system = 'a'\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    program.set(NEW_TEXT="sytem = 'a'\n")
    program("templates", "edit", "one").failed(2, "line 1", "did you mean 'system'")
    assert path.read_text() == "system = 'a'\n"
