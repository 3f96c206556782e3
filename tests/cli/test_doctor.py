"""Test what `convstore doctor` finds, which remedy it names, and that nothing in it is secret."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from convstore import Store
from convstore.db import health_rows
from convstore.testing import ChatServer
from tests.cli.program import Program, Ran, Rows
from tests.cli.screen import ScreenTerminal
from tests.cli.terminal import Terminal

SECRET = "sk-do-not-show-1234"
PASSWORD = "pass-do-not-show"


@pytest.fixture
def well(program: Program, chat_server: ChatServer) -> Program:
    """Return a program with which all is well."""
    program("new", "--name", "games")
    assert program("say", "hi").code == 0
    return program


def findings(ran: Ran) -> dict[str, tuple[str, str, str | None]]:
    """Return status, text and remedy of each subject."""
    return {found["subject"]: (found["status"], found["text"], found["remedy"]) for found in ran.json["findings"]}


def problems(ran: Ran) -> dict[str, str]:
    """Return text and remedy of each problem, by subject."""
    found = {
        subject: f"{text}; {remedy}" for subject, (status, text, remedy) in findings(ran).items() if status == "problem"
    }
    for finding in ran.json["findings"]:
        assert (finding["remedy"] is None) == (finding["status"] != "problem"), finding
    assert ran.json["ok"] == (not found)
    return found


def test_all_is_well(on_each: Program, database_url: str) -> None:
    on_each("new", "--name", "games")
    on_each("say", "hi")
    ran = on_each("doctor", "--json")
    assert problems(ran) == {}
    assert (ran.code, ran.err) == (0, "")
    checked = {"convstore", "config.toml", "database", "schema", "rows", "turns", "clock", "liveness folder"}
    checked |= {"server", "model", "locale", "terminal"}
    assert checked <= findings(ran).keys()
    if database_url.startswith("sqlite"):
        assert {"permissions", "disk space", "file"} <= findings(ran).keys()
        assert "the file is yours alone (mode 0600)" in findings(ran)["permissions"][1]
    assert "SQLite 3." in findings(ran)["database"][1] or "PostgreSQL " in findings(ran)["database"][1]
    ran = on_each("doctor")
    assert ran.code == 0
    assert ran.out.endswith("all is well\n")


def test_before_the_first_command_nothing_is_wrong_and_nothing_is_made(
    bare: Program, sqlite_url: str, chat_server: ChatServer, tmp_path: Path
) -> None:
    bare.set(CONVSTORE_DB=sqlite_url, OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="test-model")
    ran = bare("doctor", "--json")
    assert problems(ran) == {}
    assert "does not exist yet" in findings(ran)["database"][1]
    assert not list(tmp_path.glob("chat.db*"))


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        (f"postgresql://app:{PASSWORD}@127.0.0.1:9/app", 7, ["app:***@127.0.0.1:9", "start the server"]),
        (f"mysql://app:{PASSWORD}@127.0.0.1:9/app", 2, ["SQLite or PostgreSQL", "CONVSTORE_DB"]),
        (f"host=h password={PASSWORD}", 2, ["not a database URL", "CONVSTORE_DB"]),
        ("/missing/chat.db", 7, ["its folder does not exist", "make the folder"]),
    ],
)
def test_a_database_that_cannot_be_reached_is_a_problem(well: Program, url: str, code: int, words: list[str]) -> None:
    well.set(CONVSTORE_DB=url)
    ran = well("doctor", "--json")
    assert ran.code == code
    [found] = problems(ran).values()
    for word in words:
        assert word in found
    assert PASSWORD not in ran.out + ran.err


def test_a_file_that_is_no_database_is_a_problem(well: Program, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear all, " * 1000)
    ran = well("doctor", "--json", "--db", str(tmp_path / "letter.txt"))
    assert ran.code == 7
    assert "is not a SQLite database" in problems(ran)["database"]


def test_a_file_that_others_may_read_is_a_problem(well: Program, tmp_path: Path) -> None:
    (tmp_path / "chat.db").chmod(0o644)
    ran = well("doctor", "--json")
    assert ran.code == 7
    assert "mode 0644" in problems(ran)["permissions"]
    assert "chmod 600" in problems(ran)["permissions"]


def test_an_old_schema_on_a_server_is_a_problem(well: Program, postgres_empty_url: str) -> None:
    ran = well("doctor", "--json", "--db", postgres_empty_url)
    assert ran.code == 7
    assert "`convstore db upgrade`" in problems(ran)["schema"]


def test_a_damaged_row_is_a_problem(well: Program, rows: Rows) -> None:
    rows.change("UPDATE convstore_messages SET content = 'changed'")
    ran = well("doctor", "--json")
    assert ran.code == 7
    assert "damaged row" in problems(ran)["rows"]
    assert "`convstore db verify`" in problems(ran)["rows"]


def test_a_damaged_file_is_a_problem(well: Program, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with Store(f"sqlite:///{path}") as store:
        for number in range(50):
            store.new(f"conversation {number} " + "x" * 500)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(root,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'convstore_conversations'")
        [(size,)] = connection.execute("PRAGMA page_size")
    connection.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size + 8)
        file.write(b"\xff" * 64)
    ran = well("doctor", "--json")
    assert ran.code == 7
    assert {"file", "rows"} & problems(ran).keys()


def test_a_turn_of_a_process_that_ended_is_a_problem_and_its_remedy_ends_it(
    well: Program, rows: Rows, chat_server: ChatServer
) -> None:
    rows.change(
        "UPDATE convstore_conversations SET running_turn = 1, lease_token = 'gone.1',"
        " lease_expires_at = '2020-01-01 00:00:00.000000'"
    )
    [(id,)] = rows("SELECT id FROM convstore_conversations")
    ran = well("doctor", "--json")
    assert ran.code == 7
    assert repr(id) in problems(ran)["turns"]
    assert "`convstore stop ID`" in problems(ran)["turns"]
    assert well("stop", id).code == 0
    assert problems(well("doctor", "--json")) == {}


def test_a_running_turn_is_no_problem(well: Program, rows: Rows) -> None:
    rows.change(
        "UPDATE convstore_conversations SET running_turn = 1, lease_token = 'elsewhere.1',"
        " lease_expires_at = '2999-01-01 00:00:00.000000'"
    )
    assert "1 running, none stale" in findings(well("doctor", "--json"))["turns"][1]


def test_a_full_disk_is_a_problem(well: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: whole._replace(free=1000))
    ran = well("doctor", "--json")
    assert ran.code == 7
    assert "make room" in problems(ran)["disk space"]


def test_a_liveness_folder_that_others_may_open_is_a_problem(well: Program, tmp_path: Path) -> None:
    folder = tmp_path / "chat.db-locks"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    ran = well("doctor", "--json")
    assert ran.code == 7
    assert "is open to other users" in problems(ran)["liveness folder"]


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_clock_that_differs_is_a_problem(well: Program, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr("convstore.store.database_health.measure_clock_difference", lambda *_: seconds)
    ran = well("doctor", "--json")
    assert ran.code == 7
    assert "3,600 seconds" in problems(ran)["clock"]


def test_the_clock_of_the_database_is_compared(on_each: Program, database_url: str, rows: Rows) -> None:
    from convstore.db.engine import open_database

    on_each("new")
    opened = open_database(database_url)
    with opened.read() as connection:
        assert abs(health_rows.measure_clock_difference(connection, "")) < 5
    opened.close()
    if database_url.startswith("sqlite"):
        rows.change("UPDATE convstore_conversations SET updated_at = '2999-01-01 00:00:00.000000'")
        assert "ahead of" in problems(on_each("doctor", "--json"))["clock"]


# --- the provider ---


def test_a_server_that_is_down_is_a_problem(well: Program) -> None:
    well.set(OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    ran = well("doctor", "--json")
    assert ran.code == 6
    assert "http://127.0.0.1:9 cannot be reached" in problems(ran)["server"]
    assert findings(well("doctor", "--json", "--offline"))["server"][0] == "not checked"
    assert well("doctor", "--offline").code == 0


def test_without_a_key_or_a_server_there_is_a_problem(well: Program) -> None:
    well.set(OPENAI_BASE_URL=None)
    ran = well("doctor", "--json")
    assert ran.code == 2
    assert "set OPENAI_API_KEY" in problems(ran)["server"]


def test_a_key_that_the_server_does_not_accept_is_a_problem_and_is_not_shown(well: Program, strict_server: str) -> None:
    well.set(OPENAI_BASE_URL=strict_server, OPENAI_API_KEY=SECRET)
    ran = well("doctor", "--json")
    assert ran.code == 6
    assert "does not accept the key (401)" in problems(ran)["key"]
    assert "OPENAI_API_KEY" in problems(ran)["key"]
    assert SECRET not in ran.out + ran.err
    assert SECRET[:6] not in ran.out + ran.err
    well.set(OPENAI_API_KEY="sk-right")
    assert problems(well("doctor", "--json")) == {}


def test_a_model_that_the_server_does_not_list_is_a_problem(well: Program) -> None:
    well.set(CONVSTORE_MODEL="other-model")
    ran = well("doctor", "--json")
    assert ran.code == 6
    assert "does not list 'other-model'" in problems(ran)["model"]
    assert "`convstore models`" in problems(ran)["model"]
    well.set(CONVSTORE_MODEL=None)
    ran = well("doctor", "--json")
    assert ran.code == 2
    assert "no model is named" in problems(ran)["model"]


def test_a_base_url_without_a_version_is_a_problem(well: Program, chat_server: ChatServer) -> None:
    url = chat_server.url.removesuffix("/v1")
    ran = well("doctor", "--json", "--base-url", url)
    assert ran.code == 6
    assert f"try {url}/v1" in problems(ran)["server"]


def test_a_server_without_a_list_is_not_blamed(well: Program, silent_server: str) -> None:
    well.set(OPENAI_BASE_URL=silent_server)
    ran = well("doctor", "--json")
    assert problems(ran) == {}
    assert findings(ran)["model"][0] == "not checked"


# --- settings, terminal and locale ---


def test_a_mistake_in_a_file_is_a_problem_and_the_rest_is_still_checked(well: Program, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "config" / "convstore"
    folder.mkdir(parents=True)
    path = folder / "config.toml"
    path.write_text("modle = 1\n")
    ran = well("doctor", "--json")
    assert ran.code == 2
    assert "line 1: unknown key 'modle'" in problems(ran)["config.toml"]
    assert findings(ran)["locale"][0] == "ok"
    path.write_text("model = 'm'\n")
    path.chmod(0o666)
    ran = well("doctor", "--json")
    assert "`chmod 600 ~/config/convstore/config.toml`" in problems(ran)["config.toml"]
    path.chmod(0o600)
    (folder / "prices.toml").write_text("nonsense")
    ran = well("doctor", "--json")
    assert ran.code == 2
    assert "prices.toml" in problems(ran)["prices"]


def write_settings(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "home" / "config" / "convstore" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[profiles.work]\nbase-url = 'nonsense'", ["line 2", "'base-url' must be a URL"]),
        ("base-url = 'ftp://x/y'", ["line 1", "'base-url' must be a URL"]),
        (f"[profiles.work]\nkey-variable = '{SECRET}'", ["line 2", "the name of an environment variable"]),
        ("[defaults.say]\ntemperature = 5", ["line 2", "from 0 to 2"]),
        ("[defaults.say]\ntemperature = 'hot'", ["line 2", "`--temperature`"]),
        ("[defaults.say]\nmax-tokens = 0", ["line 2", "at least 1"]),
        ("[defaults.say]\nlast = -3", ["line 2", "at least 0"]),
        ("[defaults.say]\no = [['temperature', '5']]", ["line 2", "from 0 to 2"]),
        ("[defaults.say]\nplain = true\ntemperature = 1\ntop-p = 0.5", ["line 4", "not both"]),
        ("[defaults.list]\nsince = 'yesterdayish'", ["line 2", "`--since`", "7d"]),
        ("[defaults.purge]\nolder-than = '99'", ["line 2", "`--older-than`", "90d"]),
        ("[defaults.new]\nmeta = ['x']", ["line 2", "KEY=VALUE"]),
        ("[defaults.new]\ntemplate = 'nope'", ["line 2", "no template 'nope'"]),
        ("[defaults.new]\nsystem = '@/nope'", ["line 2", "cannot be read"]),
        ("[defaults.doctor]\njson = true", ["line 1", "`convstore doctor` takes no defaults"]),
    ],
)
def test_a_wrong_value_in_the_file_is_a_problem_before_it_is_used(
    well: Program, tmp_path: Path, text: str, words: list[str]
) -> None:
    write_settings(tmp_path, text)
    ran = well("doctor", "--json", "--offline")
    assert ran.code == 2
    found = problems(ran)
    assert set(found) == {"config.toml"}
    for word in words:
        assert word in found["config.toml"]
    assert SECRET not in ran.out
    assert findings(ran)["locale"][0] == "ok"


def test_values_that_commands_take_are_no_problem(well: Program, tmp_path: Path) -> None:
    write_settings(
        tmp_path,
        "[defaults.say]\ntemperature = 0\nlast = 'all'\no = [['seed', 7]]\nhistory = false\n"
        "[defaults.list]\nsince = '7d'\ntag = ['a']\n[defaults.new]\nmeta = ['a=b']\nsystem = 'Be brief.'\n"
        "[defaults.purge]\nolder-than = '90d'\n",
    )
    assert problems(well("doctor", "--json", "--offline")) == {}


def test_each_mistake_in_the_defaults_is_told(well: Program, tmp_path: Path) -> None:
    write_settings(tmp_path, "[defaults.say]\nlast = -1\nmax-tokens = 0\n[defaults.lst]\nlimit = 1\n")
    ran = well("doctor", "--json")
    texts = [found["text"] for found in ran.json["findings"] if found["status"] == "problem"]
    assert [text.partition(": ")[0].rpartition(" ")[2] for text in texts] == ["2", "3", "4"]
    assert findings(ran)["server"][0] == "ok"  # what does not depend on it is checked


def test_a_wrong_setting_exits_with_2_and_the_others_are_still_checked(well: Program, tmp_path: Path) -> None:
    write_settings(tmp_path, "modle = 1\n")
    well.set(OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    (tmp_path / "chat.db").chmod(0o644)
    ran = well("doctor", "--json")  # the database and the server are named by variables
    assert ran.code == 2
    assert set(problems(ran)) == {"config.toml", "permissions", "server"}
    write_settings(tmp_path, "")
    assert well("doctor", "--json").code == 7
    (tmp_path / "chat.db").chmod(0o600)
    assert well("doctor", "--json").code == 6
    well.set(OPENAI_BASE_URL="bogus")
    ran = well("doctor", "--json", "--offline")
    assert ran.code == 2
    assert "(OPENAI_BASE_URL) is not a URL" in problems(ran)["base-url"]
    well.set(OPENAI_BASE_URL=None, CONVSTORE_PROFILE="nope")
    ran = well("doctor", "--json")
    assert ran.code == 2
    assert "CONVSTORE_PROFILE" in problems(ran)["profile"]
    assert findings(ran)["rows"][0] == "ok"
    assert findings(ran)["server"][0] == "not checked"


def test_an_owner_that_nobody_can_have_is_a_problem(well: Program) -> None:
    ran = well("doctor", "--json", "--owner", "x" * 300)
    assert ran.code == 2
    assert "255 bytes" in problems(ran)["owner"]


def test_a_key_that_cannot_be_read_is_a_problem_only_if_it_is_used(well: Program, tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/v1"
    text = f"[profiles.work]\nbase-url = '{url}'\nkey-variable = 'WORK_KEY'\n"
    write_settings(tmp_path, text)
    ran = well("doctor", "--json", "--offline")
    assert problems(ran) == {}
    assert "WORK_KEY is not set here" in findings(ran)["profile work"][1]
    ran = well("doctor", "--json", "--offline", "--profile", "work")
    assert ran.code == 2
    assert "WORK_KEY" in problems(ran)["key"]
    write_settings(tmp_path, f"[profiles.work]\nbase-url = '{url}'\nkey-command = 'exit 3'\n")
    assert well("doctor", "--offline", "--profile", "work").code == 0  # the command is run when a model is called
    ran = well("doctor", "--json", "--profile", "work")
    assert ran.code == 2
    assert "exit code 3; run it in a shell" in problems(ran)["key"]


def test_a_mistake_in_a_project_file_names_that_file(
    well: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home" / "project"
    folder.mkdir(parents=True)
    (folder / ".convstore.toml").write_text("databse = 'chat.db'\n")
    monkeypatch.chdir(folder)
    ran = well("doctor", "--json")
    assert ran.code == 2
    assert set(problems(ran)) == {"project file"}
    assert "config edit" not in problems(ran)["project file"]
    assert findings(ran)["database"][0] == "ok"  # a variable names it
    well.set(CONVSTORE_DB=None)
    assert findings(well("doctor", "--json"))["database"][0] == "not checked"


def test_a_project_file_that_is_not_read_is_a_problem(
    well: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home" / "project"
    folder.mkdir(parents=True)
    (folder / ".convstore.toml").write_text("database = 'chat.db'\n")
    (folder / ".convstore.toml").chmod(0o666)
    monkeypatch.chdir(folder)
    ran = well("doctor", "--json")
    assert "others may write it" in problems(ran)["project file"]


def test_a_locale_that_is_not_utf_8_is_a_problem(well: Program) -> None:
    well.set(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    ran = well.from_nothing("doctor", "--json", "--offline")
    assert ran.code == 2
    assert "PYTHONUTF8=1" in problems(ran)["locale"]


def test_the_terminal_is_described(well: Program) -> None:
    with Terminal("doctor", "--offline") as terminal:
        assert terminal.end() == 0
    assert "xterm, " in terminal.screen
    assert "all is well" in terminal.screen


def test_a_long_finding_is_broken_between_words_on_a_terminal(well: Program) -> None:
    well.set(COLUMNS=None, LINES=None)
    with ScreenTerminal("doctor", "--offline", "--base-url", "bogus", columns=60) as terminal:
        assert terminal.end() == 2
        screen = terminal.text
    first, *others = screen[screen.index("PROBLEM base-url") :].splitlines()
    assert first == "PROBLEM base-url        the base URL that was given is not a"
    assert others[0] == f"{' ' * 24}URL such as"
    assert others[1].startswith(f"{' ' * 24}http://localhost:8080/v1; correct")


def test_nothing_that_doctor_prints_is_secret(well: Program, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "config" / "convstore"
    folder.mkdir(parents=True)
    path = folder / "config.toml"
    path.write_text(
        f'database = "postgresql://app:{PASSWORD}@127.0.0.1:9/app?password={PASSWORD}"\n'
        f'base-url = "http://u:{PASSWORD}@127.0.0.1:9/v1?key={SECRET}"\nprofile = "work"\n'
        f'[profiles.work]\nkey = "{SECRET}"\nbase-url = "http://u:{PASSWORD}@127.0.0.1:9/v1?key={SECRET}"\n'
        f'[profiles.run]\nkey-command = "echo {SECRET}; exit 1"\n'
    )
    path.chmod(0o600)
    well.set(CONVSTORE_DB=None, OPENAI_BASE_URL=None, OPENAI_API_KEY=SECRET, CONVSTORE_MODEL=None)
    for form in ([], ["--json"]):
        for options in ([], ["--profile", "run"]):
            ran = well("doctor", *form, *options)
            assert ran.code == (2 if options else 7)
            assert SECRET not in ran.out + ran.err
            assert PASSWORD not in ran.out + ran.err
            assert str(tmp_path / "home") not in ran.out  # `~` stands for the home folder


def test_doctor_writes_nothing_into_the_database(well: Program, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    before = path.read_bytes()
    assert well("doctor").code == 0
    assert path.read_bytes() == before
