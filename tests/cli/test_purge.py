"""Test `purge` and `retention`: what they say, when they ask, and their exit codes."""

from __future__ import annotations

import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from convstore.db.engine import parse_url
from convstore.testing import ChatServer
from tests.cli.program import Program, Rows
from tests.cli.terminal import Terminal


@pytest.fixture
def trip(program: Program) -> str:
    """Return the id of a conversation with a turn; another one is beside it."""
    program("new", "Other", "--name", "other")
    id = program("new", "Zebrawort", "--name", "trip").out.strip()
    program("say", "Where to?", "-c", "trip")
    return id


def test_a_conversation_is_purged_with_a_receipt(program: Program, trip: str, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    assert program("purge", "trip", "--dry-run").out == f"would purge {trip}: 2 messages, 1 turn of 8 tokens\n"
    assert program("show", "trip").code == 0
    ran = program("purge", "trip", "--yes", "-o", str(receipt))
    assert (ran.out, ran.err) == (f"purged {trip}: 2 messages, 1 turn of 8 tokens\n", "")
    written = json.loads(receipt.read_text())
    assert stat.S_IMODE(receipt.stat().st_mode) == 0o600
    assert "Zebrawort" not in receipt.read_text()
    (one,) = written["purged"]
    assert one.pop("purged_at").startswith("20")
    assert one == {
        "owner": "",
        "conversation": trip,
        "messages": 2,
        "turns": 1,
        "summaries": 0,
        "attachments": 0,
        "attachment_bytes": 0,
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "kept_by": [],
    }
    assert (written["dry_run"], written["busy"], written["left"]) == (False, [], [])
    program("show", "trip").failed(3)
    program("restore", trip).failed(3)
    program("purge", "trip", "--yes").failed(3)
    assert "no damage" in program("db", "verify").out


def test_the_digest_is_in_the_receipt_only_if_it_is_asked_for(program: Program, trip: str) -> None:
    assert "digest" not in program("purge", "other", "--yes", "--json").json["purged"][0]
    assert len(program("purge", trip, "--yes", "--keep-digests", "--json").json["purged"][0]["digest"]) == 32


def test_several_are_purged_at_once_forks_first(program: Program, trip: str) -> None:
    program("fork", "trip", "--name", "fork")
    fork = program("list", "--json").json[0]["id"]
    kept = program("purge", "trip", "--dry-run", "--json").json["purged"][0]["kept_by"]
    assert kept == [{"conversation": fork, "messages": 2}]
    assert f"kept by forks, with their number of messages: {fork} (2)" in program("purge", "trip", "--dry-run").out
    ran = program("purge", "trip", "fork", "--yes", "--json").json["purged"]
    assert [(one["conversation"], one["kept_by"]) for one in ran] == [(fork, []), (trip, [])]


def test_a_deleted_one_is_purged_by_its_id(program: Program, trip: str) -> None:
    program("delete", "trip")
    program("purge", "trip", "--yes").failed(3)
    assert program("purge", trip, "--yes").code == 0
    assert "no deleted conversations" in program("list", "--deleted").err


def test_without_a_terminal_it_needs_yes(program: Program, trip: str) -> None:
    program("purge", "trip").failed(2, "there is no terminal to ask on: give --yes")
    program("retention", "set", "1h")
    ran = program("retention", "run")  # nothing is old enough, so nothing is asked
    assert (ran.code, ran.out, ran.err) == (0, "", "convstore: there was nothing to purge\n")
    assert program("show", "trip").code == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("\n", 1), ("no\n", 1), ("\x04", 1)])
def test_on_a_terminal_it_says_what_it_will_do_and_asks(program: Program, trip: str, answer: str, code: int) -> None:
    with Terminal("purge", "trip", feed=answer) as terminal:
        assert terminal.end() == code
    assert f"{trip} trip Zebrawort: 2 messages, 1 turn of 8 tokens" in terminal.screen
    assert "Remove 1 conversation for good? [y/N]" in terminal.screen
    assert ("convstore: nothing was removed" in terminal.screen) == (code == 1)
    assert program("show", "trip").code == (3 if code == 0 else 0)


def test_ctrl_c_at_the_question_is_no_answer(program: Program, trip: str) -> None:
    with Terminal("purge", "trip", feed="") as terminal:
        terminal.until("[y/N]")
        terminal.interrupt()
        assert terminal.end() == 130
    assert program("show", "trip").code == 0


def test_what_is_purged_is_named_in_one_way(program: Program, trip: str) -> None:
    program("purge", "--yes").failed(2, "give REF, --older-than, --finish")
    program("purge", "trip", "--older-than", "1d", "--yes").failed(2, "give REF")
    program("purge", "trip", "--finish").failed(2, "give REF")
    program("purge", "trip", "--deleted", "--yes").failed(2, "--deleted needs --older-than")
    program("purge", "--older-than", "soon", "--yes").failed(2, "is not a length of time such as 90d")
    program("purge", "trip", "nothing", "--yes").failed(3)
    assert program("show", "trip").code == 0


def test_by_age_and_from_the_trash(program: Program, trip: str, rows: Rows) -> None:
    program("delete", "other")
    assert program("purge", "--older-than", "1h", "--yes").out == ""
    assert program("purge", "--older-than", "0h", "--deleted", "--yes", "--json").json["purged"][0]["turns"] == 0
    assert [one["id"] for one in program("list", "--json").json] == [trip]
    make_old(rows)
    assert len(program("purge", "--older-than", "1h", "--yes", "--json").json["purged"]) == 1
    assert program("list", "--json").json == []


def test_no_time_at_all_is_no_age_but_for_the_trash(program: Program, trip: str) -> None:
    for options in (["--yes"], ["--dry-run"], []):
        program("purge", "--older-than", "0d", *options).failed(2, "all conversations", "--deleted", "--owner OWNER")
    assert len(program("list", "--json").json) == 2


def test_a_dry_run_does_not_count_what_forks_keep_that_would_be_purged_too(
    program: Program, trip: str, rows: Rows
) -> None:
    program("new", "--name", "kept")
    fork, last = (
        program("fork", ref, "--name", name).out.strip() for ref, name in (("trip", "fork"), ("fork", "last"))
    )
    receipts = program("purge", "trip", "fork", "--dry-run", "--json").json["purged"]
    assert [(one["conversation"], one["kept_by"]) for one in receipts] == [
        (fork, [{"conversation": last, "messages": 0}]),
        (trip, [{"conversation": last, "messages": 2}]),
    ]
    make_old(rows)
    program("retention", "set", "1h")
    for command in (["purge", "--older-than", "1h"], ["purge", "--owner", ""], ["retention", "run"]):
        planned = program(*command, "--dry-run", "--json").json["purged"]
        assert len(planned) == 5
        assert [one["kept_by"] for one in planned] == [[]] * 5, command
    done = program("purge", "trip", "fork", "--yes", "--json").json["purged"]
    assert [one["kept_by"] for one in done] == [one["kept_by"] for one in receipts]


def make_old(rows: Rows) -> None:
    rows.change("UPDATE convstore_conversations SET updated_at = '2020-01-01 00:00:00.000000'")


def test_what_was_not_confirmed_or_changed_since_is_left(program: Program, trip: str, rows: Rows) -> None:
    make_old(rows)
    with Terminal("purge", "--older-than", "1h", feed="") as terminal:
        terminal.until("Remove 2 conversations for good? [y/N]")
        program("say", "Still wanted", "-c", "trip")
        program("new", "New", "--name", "new")
        terminal.type("y\n")
        assert terminal.end() == 0
    assert sorted(one["name"] for one in program("list", "--json").json) == ["new", "trip"]


def test_one_that_cannot_be_purged_does_not_lose_the_receipts_of_others(
    program: Program, trip: str, sqlite_url: str, tmp_path: Path
) -> None:
    program("fork", "trip", "--name", "fork")
    fork = program("list", "--json").json[0]["id"]
    with closing(sqlite3.connect(Path(parse_url(sqlite_url).database or ""))) as connection, connection:
        connection.execute("UPDATE convstore_conversations SET lineage = ? WHERE id = ?", (f'[["{trip}", oops', fork))
    receipts = tmp_path / "receipts.json"
    ran = program("purge", trip, "other", "--yes", "-o", str(receipts))
    assert ran.code == 7
    assert f"convstore: {trip} was not purged:" in ran.err
    written = json.loads(receipts.read_text())
    assert len(written["purged"]) == 1
    assert [one["conversation"] for one in written["failed"]] == [trip]
    assert written["left"] == []
    program("show", "other").failed(3)
    program("new", "Deleted", "--name", "deleted")
    (deleted,) = (one["id"] for one in program("list", "--json").json if one["name"] == "deleted")
    program("delete", "deleted")
    ran = program("purge", deleted, "2222-2222-2222", "--yes", "-o", str(tmp_path / "more.json"))
    assert ran.code == 3


def test_an_owner_is_purged_only_if_it_is_typed(program: Program, trip: str) -> None:
    program("new", "Ada's", "--owner", "ada")
    program.set(CONVSTORE_OWNER="ada")
    program("purge", "--yes").failed(2, "--owner alone for everything of that owner")
    assert len(program("purge", "--owner", "ada", "--yes", "--json").json["purged"]) == 1
    assert program("list", "--json").json == []
    program.set(CONVSTORE_OWNER="")
    assert len(program("list", "--json").json) == 2
    program("new", "Ada's", "--owner", "ada")
    with Terminal("purge", "--owner", "ada", feed="y\n") as terminal:
        assert terminal.end() == 0
    assert "Remove 1 conversation and everything else of owner 'ada' for good? [y/N]" in terminal.screen


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_removed(program: Program, trip: str) -> None:
    program("purge", "trip", "--yes", "-o", "/nonexistent/receipt.json").failed(2, "cannot be written")
    assert program("show", "trip").code == 0


def test_a_reader_of_the_file_makes_it_exit_with_5_until_it_is_finished(
    program: Program, trip: str, sqlite_url: str
) -> None:
    path = Path(parse_url(sqlite_url).database or "")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM convstore_messages").fetchone()
        ran = program("purge", "trip", "--yes")
        assert (ran.code, ran.out) == (5, f"purged {trip}: 2 messages, 1 turn of 8 tokens\n")
        assert "the rows are gone, but another process uses the database file" in ran.err
        assert "`convstore purge --finish` does it" in ran.err
        program("show", "trip").failed(3)
        again = program("purge", "--finish", "--json")
        assert (again.code, again.json["left"]) == (5, ["log"])
        assert b"zebrawort" in path.with_name(path.name + "-wal").read_bytes().lower() + path.read_bytes().lower()
        reader.execute("ROLLBACK")
    assert program("purge", "--finish").out == "nothing is left to be overwritten\n"
    for file in path.parent.glob(f"{path.name}*"):
        assert not file.is_file() or b"zebrawort" not in file.read_bytes().lower()


def test_an_import_leaves_out_what_was_purged_and_again_brings_it_in(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text(json.dumps([{"role": "user", "content": "Hello"}]))
    program("import", str(file))
    id = program("list", "--json").json[0]["id"]
    program("purge", id, "--yes")
    ran = program("import", str(file))
    assert ran.out == "messages: conversations: 0 new, 0 changed, 0 unchanged, 1 left out; 0 messages added\n"
    assert "it was purged here, so it was left out" in ran.err
    assert program("import", str(file), "--strict", "--json").json["erased"] == 1
    program("import", str(file), "--watch", "--again").failed(2, "--again")
    assert "1 new" in program("import", str(file), "--again").out


def test_retention_is_set_shown_run_and_removed(on_each: Program, chat_server: ChatServer) -> None:
    on_each("db", "upgrade")
    on_each("new", "Old")
    assert "conversations are kept for ever" not in on_each("retention", "show").out
    assert on_each("retention", "set", "365d").out == "conversations are kept for 365d\n"
    assert on_each("retention", "set", "--deleted", "4w", "--owner", "ada").out == (
        "owner 'ada': deleted conversations are kept for 28d\n"
    )
    shown = on_each("retention", "show", "--all-owners", "--json").json
    assert [(one["owner"], one["covers"], one["keep_seconds"]) for one in shown] == [
        ("", "all", 31_536_000),
        ("ada", "deleted", 2_419_200),
    ]
    assert on_each("retention", "run", "--all-owners", "--yes", "--json").json["purged"] == []
    assert len(on_each("list", "--json").json) == 1
    on_each("retention", "show", "--all-owners", "--owner", "ada").failed(2, "may not see other owners")
    on_each("retention", "set", "5 days").failed(2, "is not a length of time")
    on_each("retention", "set", "999y").failed(2, "36,500 days")
    assert on_each("retention", "unset").code == 0
    assert "there was no such rule" in on_each("retention", "unset").err


def test_the_check_of_the_database_says_what_is_left_of_a_purge(program: Program, trip: str, sqlite_url: str) -> None:
    path = Path(parse_url(sqlite_url).database or "")
    assert program("db", "check", "--json").json["purge_left"] == []
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM convstore_messages").fetchone()
        assert program("purge", "trip", "--yes").code == 5
        assert "not overwritten yet (log): run `convstore purge --finish`" in program("db", "check").err
    assert program("purge", "other", "--yes").code == 0
    assert program("db", "check", "--json").json["purge_left"] == []


def test_nothing_to_purge_is_said_and_receipts_need_a_file(program: Program, trip: str) -> None:
    ran = program("purge", "--owner", "nobody", "--yes")
    assert (ran.code, ran.out, ran.err) == (0, "", "convstore: there was nothing to purge\n")
    program("purge", "trip", "--yes", "-o", "-").failed(2, "-o takes a file")
    assert program("show", "trip").code == 0
