"""Test `convstore redact`: what it says, asks and returns, and the exit codes."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from convstore.testing import ChatServer, Reply
from tests.cli.program import Program, start
from tests.cli.terminal import OUR_COLOURS, Terminal

SECRET = "hunter2-Pa55wort"


@pytest.fixture
def login(program: Program, chat_server: ChatServer) -> str:
    """Return the id of a conversation in which a password was pasted and repeated."""
    id = program("new", "--name", "login").out.strip()
    chat_server.script(Reply(f"I know {SECRET} now."))
    program("say", f"My password is {SECRET}.")
    return id


def test_it_says_what_it_did_and_where_the_text_still_is(program: Program, login: str) -> None:
    ran = program("redact", "1", "--match", r"hunter2-\w+", "--dry-run")
    assert ran.out.splitlines() == [
        f"would redact a part of message 1 of {login}",
        "the text is also in 1 other message (--everywhere redacts them too):",
        f"  {login} message 2, assistant (seq 2)",
    ]
    assert SECRET in program("show").out
    ran = program("redact", "1", "-c", "login", "--match", r"hunter2-\w+", "--yes")
    assert ran.code == 0
    assert ran.out.splitlines()[1] == "computed 2 digests anew; changed 1 turn, 1 conversation"
    assert "the text is still in 1 other message" in ran.out
    shown = program("show").out
    assert "1 user (redacted 20" in shown
    assert "My password is [redacted]." in shown
    assert "(redacted 20" in program("show", "--tree").out
    (first, second) = program("show", "--json").json["messages"]
    assert "redacted_at" in first
    assert "redacted_at" not in second


def test_several_positions_are_redacted_at_once_as_json(program: Program, login: str) -> None:
    done = program("redact", "2", "1", "1", "--yes", "--json").json
    assert [(one["position"], one["extent"], one["others"]) for one in done] == [(2, "message", []), (1, "message", [])]
    assert done[0]["redacted"] == [{"conversation": login, "seq": 2, "position": 2, "role": "assistant"}]
    assert done[0]["redacted_at"] is not None
    assert SECRET not in program("show", "--json").out
    assert program("db", "verify").code == 0


def test_of_equal_messages_one_redacts_the_others(program: Program) -> None:
    program("new")
    program("say", SECRET)
    program("retry")
    program("say", SECRET)
    done = program("redact", "1", "3", "--yes", "--json").json
    assert [one["position"] for one in done] == [1]
    assert len(done[0]["redacted"]) == 2


def test_it_asks_on_a_terminal_and_needs_yes_elsewhere(program: Program, login: str) -> None:
    program("redact", "1").failed(2, "give --yes")
    assert SECRET in program("show").out
    with Terminal("redact", "1", feed="n\n") as terminal:
        assert terminal.end() != 0
    assert "would redact message 1" in terminal.screen
    assert "Redact 1 message for good?" in terminal.screen
    assert "My password" in program("show").out
    with Terminal("redact", "1", feed="y\n") as terminal:
        assert terminal.end() == 0
    assert "My password" not in program("show").out


def test_errors_are_one_line_and_change_nothing(program: Program, login: str) -> None:
    program("redact", "3", "--yes").failed(2, "no message at position 3")
    program("redact", "1", "--match", "(", "--yes").failed(2, "is not a regular expression")
    program("redact", "1", "--match", "nowhere", "--yes").failed(2, "matches nothing of message 1")
    program("redact", "1", "2", "--match", "password", "--yes").failed(2, "matches nothing of message 2")
    program("redact", "1", "-c", "unknown", "--yes").failed(3)
    program("redact", "0", "--yes").failed(2)
    assert SECRET in program("show").out
    assert program("redact", "1", "--yes").code == 0
    program("redact", "1", "--yes").failed(2, "redacted already")


def test_a_running_turn_refuses(program: Program, login: str, chat_server: ChatServer) -> None:
    go, begun = threading.Event(), threading.Event()
    chat_server.script(Reply("slow", hold=go, started=begun))
    saying = start("say", "slow")
    assert begun.wait(60)
    program("redact", "1", "--yes").failed(5, "is busy")
    assert SECRET in program("show").out
    go.set()
    saying.communicate()
    assert program("redact", "1", "--yes").code == 0


def test_a_reader_of_the_log_is_told_and_the_rest_is_finished_later(
    program: Program, login: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    monkeypatch.setenv("CONVSTORE_DB", str(path))
    program("new")
    program("say", f"My password is {SECRET}.")

    def holds_text() -> bool:
        return any(SECRET.encode() in file.read_bytes() for file in path.parent.glob("log.db*"))

    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM convstore_messages").fetchone() == (2,)
        ran = program("redact", "1", "--match", r"hunter2-\w+", "--everywhere", "--yes")
        assert ran.code == 5
        assert "not overwritten yet (log)" in ran.err
        assert "`convstore purge --finish` does the rest" in ran.err
        assert "redacted a part of message 1" in ran.out
        assert SECRET not in program("show").out
        assert holds_text()
    assert program("purge", "--finish").code == 0
    assert not holds_text()


def test_an_export_is_marked_and_an_older_one_does_not_bring_the_text_back(
    program: Program, login: str, tmp_path: Path
) -> None:
    before, after, other = tmp_path / "before.jsonl", tmp_path / "after.jsonl", tmp_path / "other.db"
    assert program("export", "-o", str(before)).code == 0
    program("redact", "1", "--match", r"hunter2-\w+", "--everywhere", "--yes")
    assert program("export", "-o", str(after)).code == 0
    assert SECRET not in after.read_text()
    assert '"redaction":{"extent":"part"' in after.read_text()
    report = program("import", str(before), "--json").json
    assert report["erased"] == 1
    assert program("import", str(before), "--new-ids", "--json").json["erased"] == 1
    assert program("import", str(after)).code == 0
    assert SECRET not in program("show").out
    assert not program("search", SECRET, "--json").json
    assert program("import", str(after), "--db", str(other)).code == 0
    assert "redacted_at" in program("show", "--db", str(other), "--json").json["messages"][0]
    assert program("db", "verify", "--db", str(other)).code == 0
    copy = tmp_path / "copy.db"
    assert program("db", "copy", str(other), str(copy)).code == 0
    assert "redacted_at" in program("show", "--db", str(copy), "--json").json["messages"][0]
    assert program("import", str(before), "--again", "--new-ids").code == 0
    assert SECRET in "".join(program("show", one["id"]).out for one in program("list", "--json").json)


def test_an_imported_conversation_is_left_out_after_a_redaction(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    begins = f'{{"role":"user","content":"My password is {SECRET}."}},{{"role":"assistant","content":"Oh."}}'
    file.write_text(f"[{begins}]")
    assert program("import", str(file)).code == 0
    id = program("list", "--json").json[0]["id"]
    assert "id" in program("show", id, "--json").json["metadata"]["import"]
    program("redact", "1", "-c", id, "--yes")
    source = program("show", id, "--json").json["metadata"]["import"]
    assert "kind" in source
    assert "id" not in source, "it is a digest of the first messages"
    file.write_text(f'[{begins},{{"role":"user","content":"Forget it."}}]')
    assert program("import", str(file), "--json").json["erased"] == 1
    assert SECRET not in program("show", id, "--json").out
    assert len(program("show", id, "--tree", "--json").json["tree"]) == 2


def test_a_copy_that_is_brought_up_to_date_loses_the_text_too(program: Program, login: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    source = program("db", "current", "--json").json["database"]
    assert program("db", "copy", source, str(copy)).code == 0
    assert SECRET in program("show", "--db", str(copy)).out
    assert program("redact", "1", "--match", r"hunter2-\w+", "--everywhere", "--yes").code == 0
    assert program("db", "copy", source, str(copy)).code == 0
    assert program("show", "--db", str(copy), "--json").json == program("show", "--json").json
    assert not program("search", "hunter2", "--db", str(copy), "--json").json
    assert program("db", "verify", "--all-terms", "--db", str(copy)).code == 0


def test_on_a_terminal_the_places_of_a_text_are_indented(program: Program) -> None:
    program("new", "--id", "talk", "--system", "the secret word is hunter2-Pa55")
    program("say", "hunter2-Pa55", "-c", "talk")
    with Terminal("redact", "1", "-c", "talk", "--match", "hunter2-Pa55", feed="n\n") as terminal:
        assert terminal.end() == 1
    assert "  talk message 2, user (seq 2)" in OUR_COLOURS.sub("", terminal.screen)
