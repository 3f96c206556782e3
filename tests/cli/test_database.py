"""Test `convstore db`, and the errors for databases that cannot be used."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from convstore import Store
from convstore.db.engine import parse_url
from convstore.db.schema_upgrade import HEAD
from convstore.testing import ChatServer
from tests.cli.program import Program, Rows

EVERY = (["new"], ["say", "hi"], ["say", "--new", "hi"], ["show"], ["list"], ["set", "--title", "x"])


def test_a_postgresql_database_is_only_upgraded_by_the_command(
    bare: Program, postgres_empty_url: str, chat_server: ChatServer
) -> None:
    bare.set(CONVSTORE_DB=postgres_empty_url, OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="m")
    for command in EVERY:
        bare(*command).failed(7, "no convstore schema", "convstore db upgrade")
    assert (bare("db", "current").out, bare("db", "current", "--json").json["current"]) == ("none\n", None)
    bare("db", "check").failed(7, "convstore db upgrade")
    checked = bare("db", "check", "--json")
    assert (checked.code, checked.json["usable"], chat_server.requests) == (7, False, [])

    upgraded = bare("db", "upgrade")
    assert (upgraded.code, upgraded.err) == (0, "")
    assert f"none -> {HEAD}" in upgraded.out
    assert "nothing to do" in bare("db", "upgrade").out
    assert bare("db", "current").out == f"{HEAD}\n"
    assert "ready" in bare("db", "check").out
    again = bare("db", "upgrade", "--json").json
    assert (again["before"], again["current"], again["up_to_date"]) == (HEAD, HEAD, True)
    assert [bare(*command).code for command in EVERY] == [0] * len(EVERY)


def test_the_error_for_an_older_schema_names_the_upgrade_command(bare: Program, postgres_url: str) -> None:
    rows = Rows(postgres_url)
    rows.change("UPDATE convstore_version SET version_num = '0000'")
    rows.close()
    bare.set(CONVSTORE_DB=postgres_url)
    for command in EVERY[3:]:
        bare(*command).failed(7, "schema 0000", HEAD, "convstore db upgrade")


def test_checking_a_sqlite_file_does_not_create_it(bare: Program, tmp_path: Path) -> None:
    bare.set(CONVSTORE_DB=str(tmp_path / "none.db"))
    assert bare("db", "current").out == "none\n"
    bare("db", "check").failed(7, "none.db", "convstore db upgrade")
    assert not (tmp_path / "none.db").exists()
    assert f"none -> {HEAD}" in bare("db", "upgrade").out
    assert bare("db", "check").code == 0


def test_a_newer_schema_is_refused(program: Program, chat_server: ChatServer, rows: Rows) -> None:
    program("new")
    rows.change("UPDATE convstore_version SET version_num = '9999'")
    rows.change("UPDATE convstore_compatibility SET minimum_version = '9999'")
    for command in (*EVERY, ["db", "check"], ["db", "upgrade"]):
        program(*command).failed(7, "schema 9999", "newer convstore", "upgrade convstore")
    assert program("db", "current").out == "9999\n"
    assert (chat_server.requests, rows.turns) == ([], [])


def test_a_file_that_is_not_a_database_is_refused_and_unchanged(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_bytes(b"Dear all, " * 1000)
    program.set(CONVSTORE_DB=str(file))
    for command in (*EVERY, ["db", "check"], ["db", "upgrade"], ["db", "current"]):
        program(*command).failed(7, "letter.txt", "not a SQLite database")
    assert file.read_bytes() == b"Dear all, " * 1000


def test_a_path_that_cannot_be_written_is_refused(program: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path, tmp_path / "missing" / "chat.db", tmp_path / "file" / "chat.db"):
        program("new", "--db", str(path)).failed(7, str(path))
        program("list", "--db", str(path)).failed(7, str(path))
    assert not (tmp_path / "missing").exists()
    program("list", "--db", str(tmp_path)).failed(7, "it is a folder; name a file in it")
    program("list", "--db", str(tmp_path / "missing" / "chat.db")).failed(7, "its folder does not exist")


def test_a_path_may_begin_with_the_home_folder(bare: Program, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(exist_ok=True)
    bare.set(CONVSTORE_DB="~/mine.db")  # a shell expands it in a word, and not in quotes
    assert bare("new").code == 0
    assert bare("list", "--db=~/mine.db", "--json").json != []
    assert (tmp_path / "home" / "mine.db").exists()


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        (" ", 2, ["not a database"]),
        ("://", 2, ["not a database URL"]),
        ("foo://x", 2, ["foo"]),
        ("http://x", 2, ["http"]),
        ("postgresql://u:secret@127.0.0.1:1/x", 7, ["u:***@127.0.0.1:1/x", "refused"]),
        ("postgresql://u:secret@127.0.0.1:port/x", 2, ["not a database URL"]),
    ],
)
def test_the_error_for_a_wrong_database_url_has_no_password(
    bare: Program, url: str, code: int, words: list[str]
) -> None:
    for command in (["list"], ["db", "check"], ["db", "upgrade"]):
        bare(*command, "--db", url).failed(code, *words)
        bare.set(CONVSTORE_DB=url)
        ran = bare(*command).failed(code, *words)
        assert "secret" not in ran.err


def test_the_default_database_is_a_private_file_in_the_data_directory(bare: Program, tmp_path: Path) -> None:
    bare.set(CONVSTORE_DB="")
    bare("new")
    [file] = (tmp_path / "home").rglob("convstore.db")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_data_directory_that_cannot_be_made_is_an_error(bare: Program, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("", encoding="utf-8")
    bare("list").failed(7, "data directory")


def test_a_damaged_row_is_an_error_and_not_skipped(program: Program, rows: Rows) -> None:
    identity = program("new", "--system", "Be brief.").out.strip()
    rows.change("UPDATE convstore_messages SET extra = 'not json'")
    for command in (["show"], ["say", "hi"], ["say", "hi", "--dry-run"]):
        program(*command).failed(7, identity)


def test_check_tells_of_a_read_that_holds_the_log_back(program: Program, sqlite_url: str) -> None:
    with Store(sqlite_url) as store, closing(sqlite3.connect(parse_url(sqlite_url).database or "")) as reader:
        id = store.new().id
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM convstore_messages").fetchone()
        for _ in range(5):
            store.append(id, {"role": "user", "content": "x" * 1_000_000})
        checked = program("db", "check")
        assert checked.code == 0
        assert "of it cannot be copied into the database while another program reads" in checked.err
        found = program("db", "check", "--json").json
        assert found["log_bytes"] > found["log_held_bytes"] > 4 * 2**20
        reader.execute("ROLLBACK")
        assert program("db", "check").err == ""
        assert program("db", "check", "--json").json["log_held_bytes"] == 0
