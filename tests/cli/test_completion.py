"""Test what Tab completes: in real shells, from real databases, in time, and without harm."""

import os
import pty
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from convstore import Store
from convstore.cli import convstore
from convstore.db import completion_values
from convstore.db.completion_values import read_completed_values
from convstore.db.engine import parse_url
from tests.cli.program import Program, commands_of
from tests.cli.test_start import HEAVY, LOADED, list_loaded_modules
from tests.processes import PATIENCE
from tests.shells import choose_shells

SHELLS, MISSING_SHELLS = choose_shells()
PROMPT = "READY> "
LOAD = {
    "bash": 'eval "$(convstore completion bash)"',
    "zsh": 'autoload -Uz compinit; compinit -u -D; eval "$(convstore completion zsh)"',
    "fish": "convstore completion fish | source",
}
START = {
    "bash": ["--norc", "--noprofile", "-i"],
    "zsh": ["-f", "-i"],
    "fish": ["--no-config", "-i"],
}


@pytest.fixture
def stored(program: Program, sqlite_url: str) -> Program:
    """Return the command line with some conversations."""
    with Store(sqlite_url) as store:
        games = store.new("Olympic games", name="games", id="aaa111")
        store.tag(games.id, "sport", "history")
        store.new("Tea, with milk: how?", id="bbb222")
        store.new("Coffee", id="bbb333")
        gone = store.new("Gone", id="ddd444")
        store.delete(gone.id)
        store.archive(store.new("Old", id="eee555").id)
        store.for_owner("anna").new("Secret", name="private")
    return program


def complete(program: Program, line: str) -> dict[str, str]:
    """Return what zsh would be offered for the last word of a line, with the descriptions."""
    program.set(_CONVSTORE_COMPLETE="zsh_complete", COMP_WORDS=line, COMP_CWORD=str(len(line.split(" ")) - 1))
    ran = program()
    program.set(_CONVSTORE_COMPLETE=None, COMP_WORDS=None, COMP_CWORD=None)
    assert (ran.code, ran.err) == (0, ""), ran
    words = ran.out.rstrip("\n").split("\n")
    return dict(zip(words[1::3], words[2::3], strict=True))


def add_odd_conversation(url: str, id: str, name: str) -> None:
    """Store a conversation with a name that convstore would refuse: the file may be somebody else's."""
    with Store(url) as store:
        store.new("Odd", id=id)
    connection = sqlite3.connect(parse_url(url).database or "")
    with connection:
        connection.execute("UPDATE convstore_conversations SET name = ? WHERE id = ?", (name, id))
    connection.close()


# --- what is offered ---


def test_references_are_offered_with_their_titles_latest_first(stored: Program) -> None:
    assert list(complete(stored, "convstore show ").items()) == [
        ("bbb333", "Coffee"),
        ("bbb222", "Tea, with milk: how?"),
        ("games", "Olympic games"),
    ]
    assert set(complete(stored, "convstore show bbb")) == {"bbb222", "bbb333"}
    assert set(complete(stored, "convstore show g")) == {"games"}
    assert set(complete(stored, "convstore show aaa")) == {"aaa111"}
    assert set(complete(stored, "convstore say hi -c b")) == {"bbb222", "bbb333"}
    assert set(complete(stored, "convstore show --owner anna ")) == {"private"}
    assert set(complete(stored, "convstore restore ")) == {"ddd444"}
    assert set(complete(stored, "convstore unarchive ")) == {"eee555"}


def test_every_argument_and_option_that_takes_a_conversation_is_completed() -> None:
    for name, command in commands_of(convstore).items():
        for parameter in command.params:
            if parameter.name in ("ref", "refs", "conversation") and name != "import":
                assert parameter._custom_shell_complete is not None, (name, parameter.name)


def test_models_tags_profiles_templates_and_keys_are_offered(stored: Program, tmp_path: Path) -> None:
    stored("say", "hi", "-c", "games", "-m", "model-a")
    stored("say", "hi", "-c", "games", "-m", "model-b")
    stored("say", "hi", "-c", "games", "-m", "other")
    folder = tmp_path / "home" / "config" / "convstore"
    (folder / "templates").mkdir(parents=True)
    (folder / "templates" / "expert.toml").write_text("system = 'Be brief.'")
    (folder / "config.toml").write_text("[profiles.work]\nmodel = 'model-c'\n")
    assert set(complete(stored, "convstore say -m model-")) == {"model-a", "model-b", "model-c"}
    assert set(complete(stored, "convstore list --tag ")) == {"sport", "history"}
    assert set(complete(stored, "convstore untag games s")) == {"sport"}
    assert complete(stored, "convstore say --profile ") == {"work": "model-c"}
    assert set(complete(stored, "convstore new --template ")) == {"expert"}
    assert set(complete(stored, "convstore templates show ")) == {"expert"}
    assert "rendering.markdown" in complete(stored, "convstore config set r")
    assert set(complete(stored, "convstore completion ")) == {"bash", "zsh", "fish"}


def test_the_database_of_the_settings_and_of_the_project_is_read(
    stored: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_url: str
) -> None:
    stored.set(CONVSTORE_DB=None)
    assert complete(stored, "convstore show ") == {}
    assert "games" in complete(stored, f"convstore show --db {sqlite_url} ")
    project = tmp_path / "home" / "project"
    project.mkdir(parents=True)
    shutil.copy(parse_url(sqlite_url).database or "", project / "chat.db")
    (project / ".convstore.toml").write_text('database = "chat.db"\n')
    monkeypatch.chdir(project)
    assert "games" in complete(stored, "convstore show ")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "home" / "config" / "convstore"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'database = "{sqlite_url}"\nowner = "anna"\n')
    assert set(complete(stored, "convstore show ")) == {"private"}


@pytest.mark.parametrize("name", ["$(touch hacked)", "a b", "`x`", "a;b", "-x", "a*", "~x", "!x"])
def test_a_name_that_a_shell_would_read_as_more_than_a_word_is_offered_by_its_id(
    stored: Program, sqlite_url: str, name: str
) -> None:
    add_odd_conversation(sqlite_url, "fff666", name)
    offered = complete(stored, "convstore show ")
    assert name not in offered
    assert offered["fff666"] == "Odd"


def test_a_title_cannot_drive_the_terminal(stored: Program, sqlite_url: str) -> None:
    with Store(sqlite_url) as store:
        store.new("Ti\x1b]0;hacked\x07tle\nwith\tlines" + " long" * 50, id="fff666")
    offered = complete(stored, "convstore show fff")
    assert offered["fff666"].startswith("Ti]0;hackedtle with lines long")
    assert len(offered["fff666"]) <= 60


# --- in silence, and without changing anything ---


@pytest.mark.parametrize(
    "url",
    [
        "/missing/chat.db",
        "postgresql://app:pw@127.0.0.1:9/app",
        "postgresql://app:pw@[::1/app",
        "mysql://h/d",
        "sqlite:///",
        ":memory:",
        "host=h",
        "",
    ],
)
def test_without_a_database_there_are_no_values_and_no_error(stored: Program, url: str) -> None:
    stored.set(CONVSTORE_DB=None)
    assert complete(stored, f"convstore show --db {url} " if url else "convstore show ") == {}


def test_a_file_that_is_damaged_or_of_another_program_gives_no_values_and_no_error(
    stored: Program, tmp_path: Path
) -> None:
    (tmp_path / "letter.db").write_text("Dear all, " * 1000)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE x (y)")
    other.close()
    for name in ("letter.db", "other.db"):
        assert complete(stored, f"convstore show --db {tmp_path / name} ") == {}


def test_a_mistake_in_the_settings_gives_no_values_and_no_error(stored: Program, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "config" / "convstore"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("nonsense")
    assert complete(stored, "convstore show ") == {}
    assert complete(stored, "convstore say --profile ") == {}
    assert "show" in complete(stored, "convstore sh")


def test_completion_leaves_no_file_and_changes_none(stored: Program, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.glob("chat.db*") if path.is_file()}
    assert "games" in complete(stored, "convstore show ")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("chat.db*") if path.is_file()} == before


def test_completion_reads_what_a_running_program_has_just_written(stored: Program, sqlite_url: str) -> None:
    with Store(sqlite_url) as store:
        store.new("New", id="ggg777")
        assert (Path(parse_url(sqlite_url).database or "").parent / "chat.db-wal").exists()
        assert "ggg777" in complete(stored, "convstore show g")


def test_completion_does_not_wait_for_a_writer(stored: Program, sqlite_url: str) -> None:
    path = parse_url(sqlite_url).database or ""
    with sqlite3.connect(path) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        begin = time.monotonic()
        complete(stored, "convstore show ")
        assert time.monotonic() - begin < PATIENCE / 2
        writer.rollback()
    writer.close()


def test_a_server_is_asked_and_not_waited_for(
    stored: Program, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(postgres_url) as store:
        store.new("Olympic games", name="games", id="aaa111")
        store.new("Tea", id="bbb222")
    monkeypatch.setattr(completion_values, "SERVER_SECONDS", PATIENCE)
    assert complete(stored, f"convstore show --db {postgres_url} ") == {"bbb222": "Tea", "games": "Olympic games"}
    assert complete(stored, f"convstore show --db {postgres_url} g") == {"games": "Olympic games"}
    with Store(postgres_url) as store:
        store.tag("aaa111", "sport")
    assert complete(stored, f"convstore list --db {postgres_url} --tag ") == {"sport": "_"}
    monkeypatch.setattr(completion_values, "SERVER_SECONDS", 0.0)
    assert complete(stored, f"convstore show --db {postgres_url} ") == {}


def test_a_server_that_never_answers_takes_no_longer_than_its_time(stored: Program) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"postgresql://app@127.0.0.1:{listener.getsockname()[1]}/app"
        begin = time.monotonic()
        assert read_completed_values(url, "reference", "", "") == []
        assert time.monotonic() - begin < completion_values.SERVER_SECONDS + 1  # of a busy machine


# --- in time ---


def test_completion_of_commands_and_options_imports_click_alone(stored: Program) -> None:
    for line, number in (("convstore sh", "1"), ("convstore show --", "2"), ("convstore new --temp", "2")):
        stored.set(_CONVSTORE_COMPLETE="zsh_complete", COMP_WORDS=line, COMP_CWORD=number)
        [(_, modules)] = list_loaded_modules([])
        assert modules & HEAVY == set(), line
    assert LOADED


def test_values_of_a_file_are_read_with_sqlite3_alone(stored: Program) -> None:
    for line, number in (("convstore show ", "2"), ("convstore say -m ", "3"), ("convstore list --tag ", "3")):
        stored.set(_CONVSTORE_COMPLETE="zsh_complete", COMP_WORDS=line, COMP_CWORD=number)
        [(_, modules)] = list_loaded_modules([])
        heavy = {name for name in modules if name.startswith("convstore.")} - {"convstore.errors"}
        heavy = {name for name in heavy if not name.startswith(("convstore.cli", "convstore.config"))}
        assert heavy == {"convstore.db", "convstore.db.completion_values"}, line
        assert "sqlite3" in modules
        assert not modules & {"sqlalchemy", "openai", "alembic", "rich", "prompt_toolkit", "platformdirs", "psycopg"}


def test_a_hundred_thousand_conversations_are_completed_with_an_index(stored: Program, sqlite_url: str) -> None:
    connection = sqlite3.connect(parse_url(sqlite_url).database or "")
    names = {"owner": ":owner", "begin": ":begin", "end": ":end", "place": ""}
    values = {"owner": "", "begin": "a", "end": "b"}
    kinds: tuple[completion_values.Kind, ...] = ("reference", "deleted", "archived", "model", "tag")
    for kind in kinds:
        for has_prefix in (False, True):
            for statement in completion_values._make_statements(kind, has_prefix=has_prefix):
                plan = connection.execute(f"EXPLAIN QUERY PLAN {statement.format(**names)}", values).fetchall()
                assert "SEARCH convstore_" in str(plan), (kind, plan)
                assert "TEMP B-TREE FOR ORDER BY" not in str(plan), (kind, plan)
    connection.close()


# --- in real shells ---


class Shell:
    """A real shell on its own terminal, with completion loaded."""

    def __init__(self, name: str, folder: Path) -> None:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TERM": "dumb" if name == "bash" else "xterm",
            "PS1": PROMPT,
            "PROMPT": PROMPT,
            "HISTFILE": "/dev/null",
            "COLUMNS": "100",
            "LINES": "40",
        }
        self.name = name
        self._master, slave = pty.openpty()
        self.screen = ""
        self._process = subprocess.Popen(
            [SHELLS[name], *START[name]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: _take_terminal(slave),  # noqa: PLW1509 (this process has no other threads then)
        )
        os.close(slave)
        if name == "fish":
            self.type("function fish_prompt; echo -n 'READY> '; end\n")
        self.until(PROMPT)
        self.type(f"{LOAD[name]}; echo LOA''DED\n")
        self.until("LOADED")
        self.until(PROMPT)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str) -> None:
        """Read until a text is on the screen, and forget the screen up to it."""
        self.wait_for(text)
        self.screen = self.screen.partition(text)[2]

    def wait_for(self, *texts: str) -> None:
        """Read until all texts are on the screen."""
        deadline = time.monotonic() + PATIENCE
        while not all(text in self.screen for text in texts):
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"the shell printed nothing more after {self.screen!r}"
            self.screen += os.read(self._master, 65536).decode(errors="replace")

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._master)


def _take_terminal(slave: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest, stored: Program, tmp_path: Path) -> Iterator[Shell]:
    """Yield each shell of this machine in turn; the end of the test run names those that it lacks."""
    folder = tmp_path / "work"
    folder.mkdir()
    opened = Shell(request.param, folder)
    yield opened
    opened.close()


def test_bash_is_there() -> None:
    assert "bash" in SHELLS


def test_tab_completes_commands_options_and_names_in_a_real_shell(shell: Shell, tmp_path: Path) -> None:
    shell.type(f"convstore sho\tga\t--js\t> {tmp_path}/shown; echo DO''NE\n")
    shell.until("DONE")
    assert '"name": "games"' in (tmp_path / "shown").read_text()
    shell.until(PROMPT)
    shell.type(f"convstore show bbb22\t-n 1 > {tmp_path}/shown; echo DO''NE\n")
    shell.until("DONE")
    assert "Tea, with milk" in (tmp_path / "shown").read_text()


def test_tab_lists_ids_with_their_titles_in_a_real_shell(shell: Shell) -> None:
    shell.type("convstore show bbb\t\t\t")  # bash beeps first
    shell.wait_for("bbb222", "Tea, with" if shell.name != "fish" else "Tea", "bbb333", "Coffee")


def test_descriptions_are_never_inserted_by_a_real_shell(shell: Shell, tmp_path: Path) -> None:
    shell.type(f"convstore show bbb222\t\t\t -n 1 > {tmp_path}/shown; echo DO''NE\n")
    shell.until("DONE")
    assert "Tea, with milk" in (tmp_path / "shown").read_text()


def test_a_word_with_a_colon_is_completed_in_a_real_shell(shell: Shell, stored: Program, tmp_path: Path) -> None:
    stored("say", "hi", "-c", "games", "-m", "llama3:8b")
    stored("say", "hi", "-c", "games", "-m", "other")
    for typed in ("lla", "llama3:", "llama3:8"):
        shell.type(f"convstore say hi --dry-run -m {typed}\t> {tmp_path}/shown; echo DO''NE\n")
        shell.until("DONE")
        assert '"model": "llama3:8b"' in (tmp_path / "shown").read_text()
        shell.until(PROMPT)


def test_a_name_with_a_command_in_it_is_not_run_by_a_real_shell(shell: Shell, sqlite_url: str, tmp_path: Path) -> None:
    add_odd_conversation(sqlite_url, "zzz999", "$(touch hacked)")
    shell.type("convstore show zzz\t; echo DO''NE\n")
    shell.until("DONE")
    shell.type("convstore show '$'\t; echo DO''NE\n")
    shell.until("DONE")
    assert list((tmp_path / "work").iterdir()) == []
