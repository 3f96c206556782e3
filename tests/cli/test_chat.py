"""Test `convstore chat` without a terminal: what a pipe brings is said, and commands are run."""

import os
from pathlib import Path

import pytest

from convstore.cli import _COMMANDS
from convstore.cli.chat.slash_commands import SLASH_COMMANDS
from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program, Ran, Rows


def chat(program: Program, *lines: str, arguments: tuple[str, ...] = ()) -> Ran:
    """Pipe lines into a chat."""
    return program("chat", *arguments, stdin="".join(f"{line}\n" for line in lines).encode())


def sent(chat_server: ChatServer, number: int = -1) -> list[str]:
    return [message["content"] for message in chat_server.requests[number].body["messages"]]


# --- messages ---


def test_each_line_of_a_pipe_is_a_message_of_one_new_conversation(on_each: Program, chat_server: ChatServer) -> None:
    ran = chat(on_each, "a", "b")
    assert ran == Ran(0, "You said: a\nYou said: b\n", "")
    assert sent(chat_server) == ["a", "You said: a", "b"]
    [row] = on_each("list", "--json").json
    assert (row["messages"], row["title"]) == (4, "a")


def test_the_last_line_needs_no_end_and_empty_lines_say_nothing(program: Program, chat_server: ChatServer) -> None:
    assert program("chat", stdin=b"a\n\n  \nb").out == "You said: a\nYou said: b\n"


def test_nothing_piped_stores_nothing(program: Program) -> None:
    assert chat(program) == Ran(0, "", "")
    assert chat(program, "/model m", "/system Be brief.") == Ran(0, "", "")
    assert program("list", "--json").json == []


def test_a_chat_begins_a_new_conversation_unless_one_is_named(
    program: Program, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("new", "--id", "first")
    chat(program, "one", arguments=("first",))
    chat(program, "two", arguments=("--latest",))
    chat(program, "three", arguments=("-c", "first"))
    assert sent(chat_server)[::2] == ["one", "two", "three"]
    chat(program, "four")
    assert sent(chat_server) == ["four"]
    monkeypatch.setenv("CONVSTORE_CONVERSATION", "first")
    chat(program, "five")
    assert sent(chat_server)[::2] == ["one", "two", "three", "five"]
    chat(program, "six", arguments=("--new",))
    assert sent(chat_server) == ["six"]
    program("chat", "first", "--new").failed(2, "give REF, --latest or --new")
    program("chat", "first", "--title", "x").failed(2, "--title", "/set")
    program("chat", "nothing").failed(3, "nothing")


def test_a_new_conversation_keeps_the_options_and_an_old_one_does_not(
    program: Program, chat_server: ChatServer
) -> None:
    options = ("-m", "big", "--temperature", "0.5", "--last", "1")
    chat(program, "a", "b", arguments=(*options, "-s", "Be brief.", "--name", "games", "--title", "Olympics"))
    assert [each.body["model"] for each in chat_server.requests] == ["big", "big"]
    assert sent(chat_server, 0) == ["Be brief.", "a"]
    row = program("show", "games", "--json").json
    assert (row["settings"], row["window"], row["title"]) == (
        {"model": "big", "temperature": 0.5},
        {"last": 1},
        "Olympics",
    )
    chat(program, "c", "d", arguments=("games", "-m", "small", "-s", "Be long."))
    assert [each.body["model"] for each in chat_server.requests[2:]] == ["small", "small"]
    assert "Be long." in sent(chat_server, 2)
    assert program("show", "games", "--json").json["settings"]["model"] == "big"


def test_an_error_of_the_model_is_one_line_and_the_chat_goes_on(
    program: Program, chat_server: ChatServer, rows: Rows
) -> None:
    chat_server.script(Failure(400, "too odd"), Reply("fine"), Reply("half", finish_reason=None))
    ran = chat(program, "a", "b", "c", "d")
    assert ran.out == "fine\nhalf\nYou said: d\n"
    assert ran.code == 6  # of the first error
    first, _ = ran.err.splitlines()
    assert "too odd" in first
    assert "`/retry`" in first  # and not `convstore retry`
    assert "Traceback" not in ran.err
    assert [status for status, _ in rows.turns] == ["failed", "completed", "interrupted", "completed"]


def test_without_a_model_or_a_server_a_chat_says_so_and_stores_nothing(program: Program) -> None:
    program.set(CONVSTORE_MODEL=None)
    ran = chat(program, "a")
    assert ran.code == 2
    ran.one_line("model")
    program.set(CONVSTORE_MODEL="m", OPENAI_BASE_URL=None)
    ran = chat(program, "a")
    ran.one_line("OPENAI_API_KEY")
    assert program("list", "--json").json == []


def test_bytes_that_are_no_text_are_refused_and_the_chat_goes_on(program: Program) -> None:
    ran = program("chat", stdin=b"\xff\nb\n")
    assert (ran.code, ran.out) == (2, "You said: b\n")
    ran.one_line("not UTF-8")


# --- commands ---


def test_a_line_that_begins_with_a_slash_is_a_command_and_two_slashes_begin_a_message(
    program: Program, chat_server: ChatServer
) -> None:
    for line, words in (("/nope", ("/nope", "/help", "//")), ("/undu", ("did you mean /undo?",)), ("/ x", ("/help",))):
        ran = chat(program, line, "and this")
        assert (ran.code, ran.out) == (2, "")
        first, second = ran.err.splitlines()
        assert all(word in first for word in words)
        assert "stopped at" in second
    ran = chat(program, "//etc is a folder")
    assert (ran.code, ran.out) == (0, "You said: /etc is a folder\n")
    assert sent(chat_server) == ["/etc is a folder"]


def test_help_lists_every_command_and_explains_one(program: Program) -> None:
    out = chat(program, "/help").out
    for name, command in SLASH_COMMANDS.items():
        assert f"/{name} {command.usage}".rstrip() in out
        assert command.summary
        assert command.command is None or command.command in _COMMANDS
    assert "Undo the last turn" in chat(program, "/help undo").out
    assert "Usage: /undo [OPTIONS]" in chat(program, "/undo --help").out
    assert chat(program, "/undo -h").out == chat(program, "/undo --help").out
    assert program("undo", "-h").code == 0  # click keeps what it made of a command
    chat(program, "/help nope").failed(2, "/nope")


def test_undo_redo_checkout_and_tree_move_the_head(program: Program, chat_server: ChatServer) -> None:
    ran = chat(program, "a", "/undo", "b", "/tree", "/checkout 2", "c", "d", "/undo 2", "/undo -n 9", "/redo")
    assert "o   1  1  user       a" in ran.out
    assert sent(chat_server) == ["a", "You said: a", "c", "You said: c", "d"]
    assert ran.code == 2
    assert "has only 1 turn to undo" in ran.err


@pytest.mark.parametrize(
    ("line", "code"),
    [
        *(("/open nope", 3), ("/attach /no/such/file", 2), ("/checkout 9", 2), ("/chekcout 1", 2), ("/undo 5", 2)),
        *(("/redact 9 --yes", 2), ("/set --temperature 9", 2), ("/system @/no/such/file", 2), ("/fork --at 99", 2)),
    ],
)
def test_a_pipe_is_left_at_a_command_that_fails_if_the_next_line_would_go_elsewhere(
    program: Program, chat_server: ChatServer, line: str, code: int
) -> None:
    ran = chat(program, "a", line, "a secret for another place")
    assert (ran.code, len(chat_server.requests)) == (code, 1)
    assert f"convstore: stopped at {line.split(maxsplit=1)[0]}: " in ran.err
    chat_server.script(Failure(400, "too odd"))
    ran = chat(program, "b", line, "c")
    assert (ran.code, len(chat_server.requests)) == (code, 2)  # the code of the command


def test_a_pipe_goes_on_after_other_commands_that_fail(program: Program, chat_server: ChatServer) -> None:
    ran = chat(program, "a", "/rate 9 good", "/help nope", "/tag a/b", "/export -o /no/such/folder/x", "b")
    assert (ran.code, len(chat_server.requests)) == (2, 2)


def test_a_chat_has_one_conversation_one_database_and_one_owner(program: Program, tmp_path: Path) -> None:
    program("new", "--id", "other")
    for line in (
        *("/show other", "/undo other", "/undo -c other", "/tree -c other", "/turns --db :memory:", "/usage other"),
        *("/usage --owner ann", "/list --db :memory:", "/list --owner=ann", "/search a --owner ann", "/set -c other"),
        *("/export other", "/export --all", "/delete other", "/archive other", "/redact 1 -c other --yes"),
        *("/retry --base-url http://x/v1", "/edit 1 -c other x", "/continue --new", "/compact other"),
    ):
        ran = chat(program, "a", line)
        assert ran.code == 2, line
        assert "convstore --help" not in ran.err
    assert [row["messages"] for row in program("list", "--json", "--limit", "99").json if row["id"] == "other"] == [0]
    for name, command in SLASH_COMMANDS.items():
        shown = chat(program, f"/help {name}").out
        for word in ("--db", "--owner", "--schema", "--profile", "--base-url", "--conversation", "convstore "):
            assert word not in shown, (name, word)
        assert "REF" not in shown or name == "open"
        assert command.command is None or "--help" in shown


def test_an_error_in_a_chat_names_the_help_of_the_chat(program: Program) -> None:
    ran = program("chat", stdin=b"\xff\n/attach /no/such/file\n")
    assert "convstore --help" not in ran.err
    assert ran.err.count("`/help`") == 2


def test_retry_and_edit_ask_again(program: Program, chat_server: ChatServer) -> None:
    chat_server.script(Reply("one"), Reply("two"), Reply("three"), Reply("four"), Reply("five"))
    ran = chat(program, "a", "/retry -m other", "b", "/edit 1 it's new", "/edit - -o seed 3", "/edit 1 --oops")
    assert ran.out.splitlines()[:3] == ["one", "two", "three"]
    assert chat_server.requests[1].body["model"] == "other"
    assert sent(chat_server, 3) == ["it's new"]


def test_edit_alone_edits_ones_last_message(program: Program, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf 'better' > \"$1\"\n")
    editor.chmod(0o700)
    program.set(EDITOR=str(editor), VISUAL=None)
    ran = chat(program, "/edit")
    assert ran.code == 2
    assert "there is no message to edit" in ran.err


def test_a_fork_becomes_the_conversation_of_the_chat(program: Program, chat_server: ChatServer) -> None:
    program("new", "--id", "origin")
    ran = chat(program, "a", "/fork --name branch", "b", "/open origin", "c", arguments=("origin",))
    assert ran.code == 0, ran
    assert ran.out == "You said: a\nYou said: b\nYou said: c\n"
    assert sent(chat_server) == ["a", "You said: a", "c"]
    assert program("show", "branch", "--json").json["messages"][2]["message"]["content"] == "b"


def test_the_model_can_be_changed_and_holds(program: Program, chat_server: ChatServer) -> None:
    chat(program, "/model big one", "a", "/model small", "b", "/set --temperature 0", "c", arguments=("-m", "first"))
    assert [each.body["model"] for each in chat_server.requests] == ["big one", "small", "small"]
    assert chat_server.requests[-1].body["temperature"] == 0
    # It holds also against the options that a chat in an old conversation was started with.
    chat(program, "a", "/model big", "b", arguments=("--latest", "-m", "first"))
    assert [each.body["model"] for each in chat_server.requests[3:]] == ["first", "big"]


def test_model_alone_lists_what_the_provider_offers(program: Program, chat_server: ChatServer) -> None:
    ran = chat(program, "/model")
    assert ran.out == "" or "test-model" in ran.out
    program.set(OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    ran = chat(program, "/model")
    assert ran.code == 6
    ran.one_line("cannot be reached")


def test_a_system_message_goes_before_the_next_message(
    program: Program, chat_server: ChatServer, tmp_path: Path
) -> None:
    (tmp_path / "expert.txt").write_text("Be an expert.")
    ran = chat(program, "/system Be brief.", "/system", "a", "b", f"/system @{tmp_path}/expert.txt", "c", "/system")
    assert ran.out.splitlines()[0] == "Be brief."
    assert ran.out.splitlines()[-1] == "Be an expert."
    assert sent(chat_server, 1) == ["Be brief.", "a", "You said: a", "b"]
    assert sent(chat_server, 2)[-2:] == ["Be an expert.", "c"]


def test_what_is_attached_goes_with_the_next_message_once(
    program: Program, chat_server: ChatServer, tmp_path: Path
) -> None:
    (tmp_path / "a file.txt").write_text("content")
    ran = chat(program, f"/attach {tmp_path}/a file.txt", "look", "again", "/attach", "/attach /no/such/file")
    assert ran.code == 2
    first = chat_server.requests[0].body["messages"][0]["content"]
    assert [part["text"] for part in first] == ["look", "a file.txt:\n\ncontent"]
    assert sent(chat_server, 1)[-1] == "again"
    assert "/no/such/file" in ran.err
    assert "convstore: nothing is attached" in ran.err


def test_an_attachment_stays_until_a_message_with_it_is_stored(
    program: Program, chat_server: ChatServer, tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text("content")
    program.set(CONVSTORE_MODEL=None)
    chat(program, f"/attach {tmp_path}/x.txt", "look", "/model m", "look", "again")
    assert isinstance(chat_server.requests[0].body["messages"][0]["content"], list)
    assert sent(chat_server)[-1] == "again"


def test_the_commands_of_the_command_line_mean_the_chats_conversation(program: Program, tmp_path: Path) -> None:
    program("new", "--id", "other")
    lines = [
        *("a", "/title It's a title", "/tag sport fun", "/pin 1", "/rate 2 good", "/set --name games", "/turns"),
        *("/search You said", "/usage", f"/export -f markdown -o {tmp_path}/out.md", "/show", "/status", "/list"),
    ]
    ran = chat(program, *lines)
    assert ran.code == 0, ran
    row = program("show", "games", "--json").json
    assert (row["title"], row["tags"], len(row["pins"])) == ("It's a title", ["fun", "sport"], 1)
    assert row["messages"][1]["rating"]["rating"] == "good"
    assert "You said: a" in (tmp_path / "out.md").read_text()
    assert "games · test-model" in ran.out
    assert program("show", "other", "--json").json["messages"] == []


def test_the_commands_use_the_database_and_the_owner_of_the_chat(program: Program, tmp_path: Path) -> None:
    place = ("--db", f"{tmp_path}/other.db", "--owner", "ann")
    ran = chat(program, "a", "/list", "/tree", "/retry", "/search said", "/undo", "/fork", arguments=place)
    assert ran.code == 0, ran
    assert ran.out.count("You said: a") >= 3
    assert program("list", "--json").json == []
    assert len(program("list", "--json", *place).json) == 2


def test_the_commands_have_the_defaults_of_the_configuration(program: Program) -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"], "convstore")
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("[defaults.list]\nlimit = 1\n")
    for _ in range(3):
        program("new")
    assert len(chat(program, "/list").out.splitlines()) == 1
    assert len(chat(program, "/list --limit 2").out.splitlines()) == 2


def test_a_conversation_is_deleted_archived_and_redacted(program: Program, chat_server: ChatServer) -> None:
    ran = chat(
        program,
        "my password",
        "/redact 1 --match password --yes",
        "/archive",
        "/delete",
        "other",
        "/delete no-such-one",
        "and this",
    )
    assert ran.code == 2, ran
    assert "unexpected argument: no-such-one" in ran.err
    assert sent(chat_server) == ["other"]
    [row] = program("list", "--deleted", "--json").json
    program("restore", row["id"])
    shown = program("show", row["id"], "--json").json
    assert "password" not in shown["messages"][0]["message"]["content"]
    assert shown["archived_at"] is not None


def test_the_environment_is_as_before_after_a_command(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("new", "--id", "first")
    monkeypatch.setenv("CONVSTORE_CONVERSATION", "first")
    chat(program, "a", "/turns", "/tree")
    assert os.environ["CONVSTORE_CONVERSATION"] == "first"


def test_exit_leaves_and_new_begins_another_conversation(program: Program, chat_server: ChatServer) -> None:
    assert chat(program, "a", "/exit", "b").out == "You said: a\n"
    chat(program, "a", "/new", "b", "/quit", "c")
    assert sent(chat_server) == ["b"]
    assert len(program("list", "--json").json) == 3


def test_a_new_conversation_that_was_named_stays_and_one_that_was_not_goes(program: Program) -> None:
    chat(program, '/title "My title"', "/tag x")
    [kept] = program("list", "--json").json
    assert (kept["title"], kept["tags"]) == ("My title", ["x"])
    chat(program, "/set --temperature 0.1")
    assert len(program("list", "--json").json) == 1


def test_there_is_nothing_to_fork_before_the_first_message(program: Program) -> None:
    ran = chat(program, "/fork")
    assert ran.code == 2
    assert "no message yet" in ran.err
    assert program("list", "--json").json == []
