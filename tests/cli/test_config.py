"""Test the settings of one's own: which is in force, where it comes from, and how the file is changed."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from convstore import InvalidInput, Store
from convstore.config.database_location import mask_url
from convstore.config.user_folders import find_user_folder
from convstore.testing import ChatServer
from tests.cli.program import Program
from tests.cli.terminal import Terminal

SECRET = "sk-do-not-show-1234"
PASSWORD = "pass-do-not-show"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the home folder, with a project folder in it that is the working folder."""
    folder = tmp_path / "home"
    (folder / "project" / "deep").mkdir(parents=True)
    monkeypatch.chdir(folder / "project" / "deep")
    return folder


@pytest.fixture
def file(home: Path) -> Path:
    """Return the path of config.toml, in a folder that exists."""
    folder = home / "config" / "convstore"
    folder.mkdir(parents=True)
    return folder / "config.toml"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def in_force(program: Program, *options: str) -> dict[str, tuple[str | None, str]]:
    found = program("config", "--json", *options)
    assert found.code == 0, found
    return {setting["key"]: (setting["value"], setting["source"]) for setting in found.json["settings"]}


# --- what is in force ---


def test_without_a_file_the_defaults_are_in_force(bare: Program, home: Path) -> None:
    found = in_force(bare)
    assert found["database"] == (str(home / "data" / "convstore" / "convstore.db"), "default")
    assert found["base-url"] == ("https://api.openai.com/v1", "default")
    assert found["model"] == (None, "default")
    assert found["key"] == (None, "default")
    assert {source for _, source in found.values()} == {"default"}


def test_an_option_goes_before_the_environment_that_before_the_project_and_that_before_the_file(
    bare: Program, home: Path, file: Path
) -> None:
    write(file, 'database = "mine.db"\nowner = "anna"\nmodel = "m"\n')
    assert in_force(bare)["database"] == (str(file.parent / "mine.db"), str(file))
    project = write(home / "project" / ".convstore.toml", 'database = "chat.db"\nconversation = "games"\n')
    assert in_force(bare)["database"] == (str(home / "project" / "chat.db"), str(project))
    assert in_force(bare)["conversation"] == ("games", str(project))
    bare.set(CONVSTORE_DB="other.db", CONVSTORE_OWNER="ben", CONVSTORE_CONVERSATION="tea")
    found = in_force(bare)
    assert found["database"] == ("other.db", "CONVSTORE_DB")
    assert found["owner"] == ("ben", "CONVSTORE_OWNER")
    assert found["conversation"] == ("tea", "CONVSTORE_CONVERSATION")
    found = in_force(bare, "--db", "given.db", "--owner", "eve")
    assert found["database"] == ("given.db", "option")
    assert found["owner"] == ("eve", "option")


def test_the_file_is_used_by_commands_and_by_programs(
    bare: Program, home: Path, file: Path, chat_server: ChatServer, tmp_path: Path
) -> None:
    write(
        file,
        f'database = "../../mine.db"\nowner = "anna"\nmodel = "from-file"\nbase-url = "{chat_server.url}"\n'
        'prices = "my-prices.toml"\n',
    )
    write(file.parent / "my-prices.toml", '[models."*"]\nprompt = 1\ncompletion = 1\n')
    assert bare("say", "--new", "hi").code == 0
    assert chat_server.requests[-1].body["model"] == "from-file"
    assert bare("list", "--owner", "").out == ""
    assert len(bare("list").out.splitlines()) == 1
    with Store(owner="anna") as store:
        [conversation] = store.list()
        turn = store.say(conversation.id, "again")
        assert turn.cost
    assert (home / "mine.db").exists()


def test_a_named_price_file_that_does_not_exist_is_an_error(bare: Program, file: Path, chat_server: ChatServer) -> None:
    write(file, f'model = "m"\nbase-url = "{chat_server.url}"\nprices = "missing.toml"\n')
    bare("say", "--new", "hi").failed(2, "missing.toml")


def test_defaults_of_a_command_count_as_if_they_were_typed(program: Program, file: Path) -> None:
    write(
        file,
        "[defaults.list]\nlimit = 1\njson = true\n[defaults.new]\ntemperature = 0.5\no = [['seed', 7]]\n"
        "meta = ['project=atlas']\n"
        '[defaults."db verify"]\njson = true\n[defaults.show]\nno-pager = true\n[defaults.say]\nhistory = false\n',
    )
    for word in ("one", "two"):
        assert program("new", word).code == 0
    [shown] = program("list").json
    assert shown["title"] == "two"
    assert len(program("list", "--limit", "5").json) == 2
    found = program("new", "--json", "--temperature", "1").json
    assert found["settings"] == {"temperature": 1.0, "seed": 7}
    assert found["metadata"] == {"project": "atlas"}
    assert program("db", "verify").json["damages"] == []
    assert program("show").code == 0
    assert [message["content"] for message in program("say", "hi", "--dry-run").json["messages"]] == ["hi"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n[defaults.list]\nlimt = 1", ["line 3", "`convstore list`", "'limt'", "did you mean 'limit'"]),
        ("[defaults.list]\nlimit = 'x'", ["line 2", "`--limit`"]),
        ("[defaults.list]\njson = 1", ["line 2", "true or false"]),
        ("[defaults.list]\ndb = 'x'", ["line 2", "set 'database' itself"]),
        ("databse = 'x'", ["line 1", "did you mean 'database'"]),
        ("# a\n\nmodel = 1", ["line 3", "'model' must be a text"]),
        ('model = "a"\n[rendering]\ncolor = true', ["line 3", "did you mean 'colour'"]),
        ('[rendering]\ncolour = "yes"', ["line 2", "true or false"]),
        ('[rendering]\nediting-mode = "joe"', ["line 2", '"emacs" or "vi"']),
        ('[profiles.work]\nbase_url = "x"', ["line 2", "did you mean 'base-url'"]),
        ('[profiles.work]\nkey-variable = "A"\nkey-command = "b"', ["line 3", "give one of them"]),
        ('profile = "home"', ["line 1", "no profile 'home'"]),
        ("model = 'a", ["line 1", "not TOML"]),
        ("model = 'a'\nmodel = 'b'", ["line 2", "not TOML"]),
        ("model = 'a' 'b'", ["line 1", "not TOML"]),
        ("profiles = 1", ["line 1", "'profiles' must be a table"]),
        ("profiles.a = 1", ["line 1", "must be a table"]),
    ],
)
def test_a_mistake_in_the_file_is_an_error_with_its_line(
    bare: Program, file: Path, text: str, words: list[str]
) -> None:
    write(file, text)
    bare("list", "--db", ":memory:").failed(2, str(file), *words)
    bare("config").failed(2, str(file), *words)


def test_a_wrong_command_in_the_defaults_is_found_by_config(bare: Program, file: Path) -> None:
    write(file, "[defaults.lst]\nlimit = 1")
    bare("config").failed(2, "line 1", "no command 'lst'")


def test_mistakes_can_be_removed_one_after_another(bare: Program, file: Path) -> None:
    write(file, "# mine\nmodle = 'a'\nmodel = 'b'\n[renderin]\ncolour = 1\n[profiles.old]\nmodel = 'c'\n")
    bare("config", "set", "owner", "me").failed(2, "line 2", "`convstore config edit` opens the file")
    ran = bare("config", "unset", "modle")
    assert (ran.code, ran.out) == (0, "")
    ran.one_line("one more mistake is left", "line 3: unknown key 'renderin'")
    assert bare("config", "unset", "renderin").err == ""
    assert bare("config", "unset", "profiles.old").err == ""
    assert file.read_text() == "# mine\nmodel = 'b'\n"
    bare("config", "unset", "modle").failed(2, "does not set 'modle'")
    bare("config", "unset", "").failed(2)
    write(file, "profile = 'work'\n[profiles.work]\nmodel = 'a'\n")
    bare("config", "unset", "profiles.work").failed(2, "no profile 'work'")  # it would make a mistake
    write(file, "model = 'a\n")
    for line in (["unset", "model"], ["set", "model", "b"]):
        bare("config", *line).failed(2, "line 1", "not TOML", "`convstore config edit` opens the file")


@pytest.mark.parametrize("command", [["config", "edit"], ["templates", "edit", "new"]])
def test_an_editor_that_fails_exits_with_1_and_changes_nothing(bare: Program, file: Path, command: list[str]) -> None:
    write(file, "nonsense")
    for editor, words in (
        ("false", "the editor 'false' (EDITOR) ended with an error; nothing was changed"),
        ("/no/such/editor", "cannot be started: No such file or directory; nothing was changed"),
        ("vi 'x", "an open quotation mark; nothing was changed"),
        ("sh -c 'printf \"\\377\" > $0'", "not UTF-8; nothing was changed"),
    ):
        bare.set(EDITOR=editor, VISUAL=None)
        bare(*command).failed(1, words)
    bare.set(EDITOR=None)
    bare(*command).failed(1, "there is no terminal for an editor; nothing was changed")
    assert file.read_text() == "nonsense"
    assert not file.with_name("templates").exists()


def test_help_and_changes_work_while_the_file_has_a_mistake(bare: Program, file: Path) -> None:
    write(file, "nonsense")
    for line in (["--help"], ["list", "--help"], ["--version"], ["config", "path"], ["config", "set", "--help"]):
        assert bare(*line).code == 0, line


def test_the_folders_are_those_of_platformdirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import platformdirs

    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        for value in (str(tmp_path), "", None):
            if value is None:
                monkeypatch.delenv(name)
            else:
                monkeypatch.setenv(name, value)
            assert find_user_folder("user_config_dir") == Path(platformdirs.user_config_dir("convstore"))
            assert find_user_folder("user_data_dir") == Path(platformdirs.user_data_dir("convstore"))


# --- profiles and keys ---


def make_profiles(file: Path, url: str) -> None:
    write(
        file,
        f'[profiles.work]\nbase-url = "{url}"\nmodel = "large"\nkey-command = "echo {SECRET}"\n'
        f'[profiles.local]\nbase-url = "{url}"\nmodel = "small"\n'
        '[profiles.variable]\nkey-variable = "MY_KEY"\n',
    )


def test_a_profile_is_a_server_with_its_key_and_a_model(program: Program, file: Path, chat_server: ChatServer) -> None:
    make_profiles(file, chat_server.url)
    program.set(OPENAI_API_KEY="sk-of-openai", OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    for options, environment in ((["--profile", "work"], None), ([], "work")):
        program.set(CONVSTORE_PROFILE=environment)
        assert program("say", "--new", "hi", *options).code == 0
        sent = chat_server.requests[-1]
        assert sent.headers["authorization"] == f"Bearer {SECRET}"
        assert sent.body["model"] == "large"


def test_the_key_of_openai_is_not_sent_to_the_server_of_a_profile(
    program: Program, file: Path, chat_server: ChatServer
) -> None:
    make_profiles(file, chat_server.url)
    program.set(OPENAI_API_KEY="sk-of-openai")
    assert program("say", "--new", "hi", "--profile", "local").code == 0
    assert "sk-of-openai" not in str(chat_server.requests[-1].headers)


def test_the_key_of_the_files_profile_is_not_sent_to_another_server(
    program: Program, file: Path, chat_server: ChatServer
) -> None:
    make_profiles(file, "http://127.0.0.1:9/v1")
    file.write_text('profile = "work"\n' + file.read_text())
    program.set(OPENAI_BASE_URL=chat_server.url)
    assert program("say", "--new", "hi").code == 0
    assert SECRET not in str(chat_server.requests[-1].headers)
    assert program("say", "--new", "hi", "--base-url", chat_server.url).code == 0
    assert SECRET not in str(chat_server.requests[-1].headers)


def test_the_profile_of_the_file_is_used_if_nobody_names_another(
    program: Program, file: Path, chat_server: ChatServer
) -> None:
    make_profiles(file, chat_server.url)
    file.write_text('profile = "work"\n' + file.read_text())
    program.set(OPENAI_BASE_URL=None, CONVSTORE_MODEL=None)
    assert program("say", "--new", "hi").code == 0
    assert chat_server.requests[-1].headers["authorization"] == f"Bearer {SECRET}"
    with Store(profile="local") as store:
        store.say(store.new().id, "hi")
    assert chat_server.requests[-1].body["model"] == "small"
    program.set(OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert in_force(program)["base-url"] == ("http://127.0.0.1:9/v1", "OPENAI_BASE_URL")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("exit 3", ["profile 'work'", "exit code 3"]),
        ("true", ["did not print one line"]),
        (f"echo {SECRET}; echo {SECRET}", ["did not print one line"]),
    ],
)
def test_a_command_that_prints_no_key_is_an_error_without_what_it_printed(
    program: Program, file: Path, command: str, words: list[str]
) -> None:
    write(file, f'[profiles.work]\nbase-url = "http://127.0.0.1:9/v1"\nkey-command = "{command}"\n')
    ran = program("say", "--new", "hi", "--profile", "work").failed(2, *words, "run it in a shell", "config edit`")
    assert "-m" not in ran.err  # the model is not to blame
    assert SECRET not in ran.err


def test_a_missing_variable_and_an_unknown_profile_are_errors_that_name_them(program: Program, file: Path) -> None:
    make_profiles(file, "http://127.0.0.1:9/v1")
    program("say", "--new", "hi", "--profile", "variable").failed(
        2, "profile 'variable'", "MY_KEY", "not set; set it", "config edit`"
    )
    program("say", "--new", "hi", "--profile", "wrk").failed(2, "no profile 'wrk'", "work, local, variable")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o660])
def test_a_command_for_the_key_is_refused_in_a_file_that_others_may_write(
    program: Program, file: Path, mode: int
) -> None:
    make_profiles(file, "http://127.0.0.1:9/v1")
    file.chmod(mode)
    program("list").failed(2, "line 4", f"chmod 600 {file}")
    write(file, 'model = "m"', mode)
    assert program("list").code == 0


def test_a_key_in_a_file_that_others_may_read_is_refused(program: Program, file: Path) -> None:
    write(file, f'[profiles.work]\nkey = "{SECRET}"\n', 0o644)
    ran = program("list").failed(2, "line 2", f"chmod 600 {file}")
    assert SECRET not in ran.err


def test_a_key_is_stored_in_the_file_only_if_the_user_insists(program: Program, file: Path) -> None:
    ran = program("config", "set", "profiles.work.key", SECRET).failed(2, "key-variable", "key-command", "--insist")
    assert SECRET not in ran.err
    assert not file.exists()
    assert program("config", "set", "profiles.work.key", "--insist", stdin=f"{SECRET}\n".encode()).code == 0
    assert SECRET in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_key_that_is_typed_is_not_shown(program: Program, file: Path) -> None:
    with Terminal("config", "set", "profiles.work.key", "--insist", feed="") as terminal:
        terminal.until("profiles.work.key: ")
        terminal.type(f"{SECRET}\n")
        assert terminal.end() == 0
    assert SECRET in file.read_text()
    assert SECRET not in terminal.screen


def test_neither_keys_nor_passwords_are_in_any_output(program: Program, file: Path, tmp_path: Path) -> None:
    write(
        file,
        f'database = "postgresql://app:{PASSWORD}@127.0.0.1:9/app?password={PASSWORD}&schema=s"\n'
        f'base-url = "http://u:{PASSWORD}@127.0.0.1:9/v1?key={SECRET}"\n'
        f'[profiles.work]\nkey = "{SECRET}"\nbase-url = "http://u:{PASSWORD}@127.0.0.1:9/v1"\n'
        f'[profiles.run]\nkey-command = "echo {SECRET}"\n',
    )
    program.set(CONVSTORE_DB=None, OPENAI_BASE_URL=None, OPENAI_API_KEY=SECRET)
    for options in ([], ["--profile", "work"], ["--profile", "run"]):
        for form in ([], ["--json"]):
            ran = program("config", *form, *options)
            assert ran.code == 0
            assert SECRET not in ran.out + ran.err
            assert PASSWORD not in ran.out + ran.err
            assert "app:***@127.0.0.1" in ran.out
            assert "schema=s" in ran.out
    for line in (["list"], ["list", "-vv"], ["say", "hi", "-vv", "--db", ":memory:", "--new", "--profile", "work"]):
        ran = program(*line)
        assert ran.code in (6, 7)
        assert SECRET not in ran.out + ran.err
        assert PASSWORD not in ran.out + ran.err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p@x@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d?password=p;sslpassword=q", "postgresql://u@h/d?password&sslpassword"),
        ("host=h password=p", "(not a URL)"),
        ("/home/a b/chat.db", "/home/a b/chat.db"),
        ("sqlite:///chat.db", "sqlite:///chat.db"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert mask_url(url) == shown


# --- the project file ---


def test_a_project_file_names_the_database_and_the_conversation(bare: Program, home: Path) -> None:
    project = write(home / "project" / ".convstore.toml", 'database = "chat.db"\nconversation = "games"\n')
    ran = bare("new", "--name", "games")
    assert ran.code == 0
    assert ran.err == f"convstore: database {home}/project/chat.db (from {project})\n"
    bare("new", "--name", "later")
    assert bare("show", "--json").json["name"] == "games"
    assert bare("show", "later", "--json").json["name"] == "later"
    bare.set(CONVSTORE_DB=str(home / "other.db"))
    assert bare("new", "--name", "elsewhere").err == ""
    assert bare("show", "--json").json["name"] == "elsewhere"  # the conversation belongs to the project's database


def test_on_a_terminal_a_note_says_that_the_project_file_named_the_conversation(bare: Program, home: Path) -> None:
    project = write(home / "project" / ".convstore.toml", 'conversation = "games"\n')
    assert bare("new", "--name", "games").code == 0
    assert f"(conversation games, from {project})" in bare("show", terminal=True).err
    assert bare("show").err == ""


def test_a_key_of_a_profile_that_the_server_refuses_is_named_as_such(
    program: Program, file: Path, strict_server: str
) -> None:
    write(file, f'[profiles.work]\nbase-url = "{strict_server}"\nkey-command = "echo {SECRET}"\nmodel = "m"\n')
    program.set(OPENAI_API_KEY="sk-right")
    assert program("models", "--profile", "work").code == 6
    program.set(CONVSTORE_PROFILE="work")
    ran = program("doctor", "--json")
    assert SECRET not in ran.out
    assert "correct the key: a command" in ran.out


def test_a_project_file_is_not_used_by_programs(home: Path) -> None:
    write(home / "project" / ".convstore.toml", 'database = "chat.db"\n')
    with Store() as store:
        store.new()
    assert not (home / "project" / "chat.db").exists()


def test_the_search_for_a_project_file_ends_before_the_home_folder(
    bare: Program, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / ".convstore.toml", 'database = "home.db"\n')
    write(tmp_path / ".convstore.toml", 'database = "above.db"\n')
    assert in_force(bare)["database"][1] == "default"
    monkeypatch.chdir(home)
    assert in_force(bare)["database"][1] == "default"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert in_force(bare)["database"][0] == str(tmp_path / "above.db")


def test_the_search_for_a_project_file_ends_at_the_edge_of_the_file_system(
    bare: Program, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / "project" / ".convstore.toml", 'database = "chat.db"\n')
    whole = os.stat

    class Elsewhere:
        def __init__(self, found: os.stat_result) -> None:
            self._found = found

        def __getattr__(self, name: str) -> object:
            return self._found.st_dev + 1 if name == "st_dev" else getattr(self._found, name)

    def stat_as_if_mounted(path: Path, **more: Any) -> object:
        found = whole(path, **more)
        return Elsewhere(found) if path == home / "project" else found

    assert in_force(bare)["database"][1] != "default"
    monkeypatch.setattr(Path, "stat", stat_as_if_mounted)
    assert in_force(bare)["database"][1] == "default"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_project_file_that_others_may_write_is_not_read(bare: Program, home: Path, mode: int) -> None:
    path = write(home / "project" / ".convstore.toml", 'database = "chat.db"\n', mode)
    ran = bare("list")
    assert ran.code == 0
    assert f"{path} is not read: others may write it" in ran.err
    assert "chmod go-w" in ran.err
    assert not (home / "project" / "chat.db").exists()


def test_a_project_file_of_another_user_is_not_read(bare: Program, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / "project" / ".convstore.toml", 'database = "chat.db"\n')
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert "belongs to another user" in bare("config").err
    assert in_force(bare)["database"][1] == "default"


def test_a_project_file_that_is_a_link_or_no_file_is_not_read(bare: Program, home: Path) -> None:
    target = write(home / "mine.toml", 'database = "chat.db"\n')
    path = home / "project" / ".convstore.toml"
    path.symlink_to(target)
    assert "symbolic link" in bare("list").err
    path.unlink()
    os.mkfifo(path, 0o600)
    bare("list").failed(2, "is not a file")
    path.unlink()
    path.mkdir()
    bare("list").failed(2, "is not a file")


def test_a_folder_in_the_place_of_the_users_file_is_named(bare: Program, file: Path) -> None:
    file.mkdir()
    bare("list").failed(2, "is not a file")


@pytest.mark.parametrize(
    "database",
    [
        f"postgresql://app:{PASSWORD}@localhost/app",
        "../other.db",
        "/tmp/other.db",
        "~/other.db",
        "sqlite:////tmp/other.db",
        "sqlite:///../other.db",
        "sqlite:///file:x?uri=true",
        "postgresql:x",
        ":memory:",
    ],
)
def test_a_server_and_a_database_elsewhere_are_refused_until_the_file_is_trusted(
    bare: Program, home: Path, database: str
) -> None:
    project = write(home / "project" / ".convstore.toml", f'database = "{database}"\n')
    ran = bare("list").failed(2, str(project), "`convstore config trust", "--db or CONVSTORE_DB")
    assert PASSWORD not in ran.err
    ran = bare("config", "trust", "../.convstore.toml")
    assert (ran.code, ran.out) == (0, "")
    assert PASSWORD not in ran.err
    assert in_force(bare)["database"][1] == str(project)
    write(project, f'database = "{database}"\n# changed\n')
    bare("list").failed(2, "`convstore config trust")
    assert bare("list", "--db", str(home / "given.db")).code == 0


def test_trust_is_in_a_file_of_the_user_alone(bare: Program, home: Path) -> None:
    project = write(home / "project" / ".convstore.toml", 'database = "/tmp/other.db"\n')
    bare("config", "trust", str(project))
    trusted = home / "config" / "convstore" / "trusted.json"
    assert stat.S_IMODE(trusted.stat().st_mode) == 0o600
    assert stat.S_IMODE(trusted.parent.stat().st_mode) == 0o700
    trusted.write_text("{")
    bare("list").failed(2, "trusted.json", "damaged")
    bare("config", "trust", "missing.toml").failed(2, "missing.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('model = "x"', ["line 1", "unknown key 'model'", "database, conversation"]),
        ('\ndatabse = "x"', ["line 2", "did you mean 'database'"]),
        ("database = 1", ["line 1", "must be a text"]),
        ("database", ["line 1", "not TOML"]),
    ],
)
def test_a_mistake_in_a_project_file_is_an_error_with_its_line(
    bare: Program, home: Path, text: str, words: list[str]
) -> None:
    project = write(home / "project" / ".convstore.toml", text)
    bare("list").failed(2, str(project), *words)


# --- changing the file ---


def test_set_and_unset_change_one_value_and_keep_comments(bare: Program, file: Path) -> None:
    before = '# mine\nmodel = "a"  # good\n\n[profiles.work]\n# the office\nmodel = "large"\n'
    write(file, before)
    assert bare("config", "set", "model", "b").code == 0
    assert file.read_text() == before.replace('"a"', '"b"')
    assert bare("config", "set", "owner", "anna").code == 0
    assert bare("config", "set", "profiles.home.model", "small").code == 0
    assert bare("config", "set", "rendering.markdown", "false").code == 0
    assert bare("config", "set", "rendering.editing-mode", "vi").code == 0
    assert bare("config", "set", "defaults.list.limit", "5").code == 0
    assert bare("config", "set", 'defaults."db verify".json', "true").code == 0
    text = file.read_text()
    for kept in ("# mine", "# good", "# the office"):
        assert kept in text
    found = in_force(bare)
    assert found["owner"][0] == "anna"
    assert found["rendering.markdown"][0] == "false"
    assert found["defaults.list.limit"][0] == "5"
    assert found["defaults.db verify.json"][0] == "true"
    assert in_force(bare, "--profile", "home")["model"] == ("small", "profile home")
    for key in ("owner", "profiles.home.model", "rendering.markdown", "defaults.list.limit"):
        assert bare("config", "unset", key).code == 0
    assert in_force(bare)["owner"][0] == ""
    bare("config", "unset", "owner").failed(2, "does not set 'owner'")


def test_a_new_file_has_mode_0600_and_its_folder_0700(bare: Program, home: Path) -> None:
    assert bare("config", "set", "model", "m").code == 0
    path = home / "config" / "convstore" / "config.toml"
    assert bare("config", "path").out == f"{path}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("modle", "x", ["'modle'", "did you mean 'model'"]),
        ("profiles.work.modle", "x", ["did you mean 'profiles.work.model'"]),
        ("rendering.color", "true", ["did you mean 'rendering.colour'"]),
        ("rendering.colour", "yes", ["true or false"]),
        ("profile", "nobody", ["no profile 'nobody'"]),
        ("defaults.list.limt", "5", ["did you mean 'limit'"]),
        ("defaults.list.limit", "many", ["`--limit`"]),
        ("defaults.lst.limit", "5", ["no command 'lst'"]),
        ("model", "", ["must be a text"]),
        ("a b", "x", ["unknown key"]),
        ("profiles.a b.model", "x", ["unknown key"]),
    ],
)
def test_a_wrong_key_or_value_changes_nothing(
    bare: Program, file: Path, key: str, value: str, words: list[str]
) -> None:
    write(file, 'model = "a"\n')
    bare("config", "set", key, value).failed(2, *words)
    assert file.read_text() == 'model = "a"\n'


def test_a_file_that_is_a_link_stays_a_link(bare: Program, file: Path, tmp_path: Path) -> None:
    real = write(tmp_path / "dotfiles.toml", 'model = "a"\n')
    file.symlink_to(real)
    assert bare("config", "set", "model", "b").code == 0
    assert file.is_symlink()
    assert real.read_text() == 'model = "b"\n'


def test_edit_stores_a_text_without_mistakes_only(bare: Program, file: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf \'%s\' "$NEW_TEXT" > "$1"\n')
    editor.chmod(0o700)
    bare.set(EDITOR=str(editor), VISUAL=None, NEW_TEXT='# hello\nmodel = "b"\n')
    assert bare("config", "edit").code == 0
    assert file.read_text() == '# hello\nmodel = "b"\n'
    bare.set(NEW_TEXT='model = "b"\nmodle = 1')
    bare("config", "edit").failed(2, "line 2", "did you mean 'model'")
    bare.set(NEW_TEXT="[defaults.list]\nlimt = 1")
    bare("config", "edit").failed(2, "line 2", "did you mean 'limit'")
    assert file.read_text() == '# hello\nmodel = "b"\n'


def test_two_processes_that_set_lose_nothing(bare: Program, file: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as threads:
        ran = list(threads.map(lambda number: bare.real("config", "set", f"profiles.p{number}.model", "m"), range(8)))
    assert [each.code for each in ran] == [0] * 8
    assert file.read_text().count("model = ") == 8


def test_colours_can_be_switched_off_in_the_file(program: Program, file: Path) -> None:
    program("new", "--name", "games")
    with Terminal("show") as terminal:
        terminal.end()
    assert "\x1b[2m" in terminal.screen
    write(file, "[rendering]\ncolour = false\n")
    with Terminal("show") as terminal:
        terminal.end()
    assert "\x1b" not in terminal.screen


def test_a_program_that_needs_nothing_of_the_file_does_not_read_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, chat_server: ChatServer, sqlite_url: str
) -> None:
    write(file, "nonsense")
    with Store(sqlite_url, base_url=chat_server.url, model="m", prices={}) as store:
        assert store.say(store.new().id, "hi").text
    for name, value in (
        ("CONVSTORE_DB", sqlite_url),
        ("CONVSTORE_MODEL", "m"),
        ("OPENAI_BASE_URL", chat_server.url),
        ("CONVSTORE_PRICES", str(write(file.parent / "prices.toml", ""))),
    ):
        monkeypatch.setenv(name, value)
    with Store() as store:
        assert store.say(store.new().id, "hi").text


def test_the_library_reports_a_mistake_in_the_file_by_name(file: Path) -> None:
    write(file, "modle = 1")
    with pytest.raises(InvalidInput, match="line 1: unknown key 'modle'"):
        Store()


@pytest.mark.parametrize("command", [("config", "edit"), ("templates", "edit", "mine")])
def test_on_a_terminal_a_mistake_may_be_corrected_or_left(
    bare: Program, file: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf \'modle = "a"\\n\' > "$1"\n')
    editor.chmod(0o700)
    bare.set(EDITOR=str(editor), VISUAL=None)
    for answer, code in (("n\n", 1), ("\x04", 130)):
        with Terminal(*command, feed="") as terminal:
            terminal.until("Edit it again? [Y/n]")
            terminal.type(answer)
            assert terminal.end() == code
        assert ("convstore: nothing was changed\n" in terminal.screen) == (code == 1)
        assert not file.exists()
