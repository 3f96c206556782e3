"""Test `db copy` and `db stats` as a person and a script use them, and what a backup carries."""

from __future__ import annotations

import shlex
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from convstore import Store
from convstore.db import database_statistics
from convstore.testing import ChatServer
from tests.cli.program import Program, Rows, Running
from tests.cli.test_verify import fill


def test_a_copy_says_what_was_copied_and_is_searched_at_once(
    program: Program, sqlite_url: str, postgres_url: str, chat_server: ChatServer, tmp_path: Path
) -> None:
    fill(sqlite_url, chat_server)
    ran = program("db", "copy", sqlite_url, postgres_url)
    assert (ran.code, ran.err) == (0, "")
    assert "10 conversations (10 written), 98 messages (98 written), 10 turns (10 written), 2 attachments" in ran.out
    assert ran.out.endswith(", equal\n")
    assert program("db", "verify", "--db", postgres_url).err == ""
    assert "message 7" in program("search", "message 7", "--db", postgres_url).out.replace("»", "").replace("«", "")
    back = str(tmp_path / "back.db")
    found = program("db", "copy", postgres_url, back, "--json").json
    assert (found["messages"], found["written"]["messages"], found["indexed"]) == (98, 98, 100)
    assert (found["differences"], found["running_turns"], found["changed_meanwhile"]) == ([], 0, 0)
    assert found["seconds"].keys() == {"copy", "index"}
    again = program("db", "copy", postgres_url, back, "--json").json
    assert (sum(again["written"].values()), again["indexed"]) == (0, 0)


def test_a_copy_without_an_index_says_how_to_fill_it(program: Program, sqlite_url: str, tmp_path: Path) -> None:
    program("new", "Title", "--id", "c", "--system", "findable")
    target = str(tmp_path / "copy.db")
    program("db", "copy", sqlite_url, target, "--no-index")  # a note is on stderr
    stats = program("db", "stats", "--json", "--db", target).json
    assert (stats["messages"], stats["unindexed"]) == (1, 1)
    assert "1 messages are not in the search index yet" in program("db", "verify", "--db", target).err
    assert program("db", "reindex", "--db", target).out == "2 added to the search index\n"
    assert "findable" in program("search", "findable", "--db", target).out.replace("»", "").replace("«", "")


def test_a_password_is_never_printed(program: Program, sqlite_url: str) -> None:
    for arguments in (
        (sqlite_url, "postgresql://app:geheim@127.0.0.1:1/app"),
        ("postgresql://app:geheim@127.0.0.1:1/app", sqlite_url),
    ):
        ran = program("db", "copy", *arguments)
        assert ran.code == 7
        assert "geheim" not in ran.err + ran.out


def test_what_cannot_be_copied_is_one_line_and_an_exit_code(
    program: Program, sqlite_url: str, postgres_empty_url: str, tmp_path: Path
) -> None:
    program("new", "--id", "c")
    program("db", "copy", sqlite_url, sqlite_url).failed(2, "to itself")
    program("db", "copy", str(tmp_path / "none.db"), str(tmp_path / "x.db")).failed(7, "no such file")
    assert not (tmp_path / "x.db").exists()
    program("db", "copy", sqlite_url, postgres_empty_url).failed(7, "run `convstore db upgrade --db ")
    program("db", "copy", sqlite_url, "mysql://x/y").failed(2)
    other = str(tmp_path / "other.db")
    program("new", "--id", "other", "--db", other)
    program("db", "copy", sqlite_url, other).failed(5, "conversation 'other' is in", "copy to a new database")
    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    program("db", "copy", sqlite_url, str(text)).failed(7, "is not a SQLite database")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_copy_that_is_stopped_in_the_middle_goes_on(
    program: Program, sqlite_url: str, tmp_path: Path, how: signal.Signals
) -> None:
    with Store(sqlite_url) as store:
        for number in range(6):
            store.new(id=f"c{number}")
            store.append(f"c{number}", *({"role": "user", "content": f"{number} {i}"} for i in range(1000)))
    target = tmp_path / "copy.db"
    with Running("db", "copy", sqlite_url, str(target)) as running:
        give_up_at = time.monotonic() + 60
        while _count_rows(target) < 2000:  # the first batches are there
            assert time.monotonic() < give_up_at
        running.process.send_signal(how)
        running.process.wait(60)
    if _count_rows(target) < 6_000:
        program("list", "--db", str(target)).failed(7, "is an unfinished copy", "`convstore db copy`")
    found = program("db", "copy", sqlite_url, str(target), "--no-index", "--json").json
    assert (found["messages"], found["differences"]) == (6_000, [])
    assert found["written"]["messages"] <= 4_000
    assert program("show", "c5", "-n", "1", "--db", str(target)).out == program("show", "c5", "-n", "1").out


def _count_rows(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM convstore_messages").fetchone()
            return int(count)
    except sqlite3.Error:
        return 0


def test_statistics_count_everything(on_each: Program, database_url: str, chat_server: ChatServer) -> None:
    fill(database_url, chat_server)
    on_each("archive", "empty")
    found = on_each("db", "stats", "--json").json
    assert (found["messages"], found["conversations"], found["turns"], found["owners"]) == (98, 10, 10, 2)
    assert (found["live"], found["archived"], found["deleted"]) == (7, 1, 2)
    assert (found["attachments"], found["attachment_bytes"]) == (2, 2 * 3072)
    assert (found["last_7_days"], found["last_30_days"], found["unindexed"]) == (98, 98, 0)
    assert found["messages_per_day"] == {"7": 14.0, "30": 3.3}
    assert found["oldest"] <= found["newest"]
    sizes = {table["name"]: table["bytes"] + table["index_bytes"] for table in found["tables"]}
    assert min(sizes["convstore_messages"], sizes["convstore_search_documents"]) >= 8192
    assert sum(sizes.values()) <= found["bytes"]
    assert 0 < found["search_index_bytes"] < found["bytes"]
    text = on_each("db", "stats").out
    for words in ("10: 7 live, 1 archived, 2 deleted", "98, 0 of them", "14.0 messages in the last 7 days", "TABLE"):
        assert words in text


def test_statistics_of_an_empty_database_and_of_an_older_month(program: Program, rows: Rows) -> None:
    assert "none, none" in program("db", "stats").out
    program("new", "--id", "c", "--system", "x")
    rows.change("UPDATE convstore_messages SET created_at = '2020-01-02 03:04:05.000000'")
    found = program("db", "stats", "--json").json
    assert (found["messages"], found["last_30_days"], found["oldest"]) == (1, 0, "2020-01-02T03:04:05+00:00")


def test_sizes_are_unknown_where_sqlite_cannot_measure_them(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("new", "--id", "c")
    sql = database_statistics._SQLITE_SIZES
    monkeypatch.setattr(
        database_statistics, "_SQLITE_SIZES", sql.replace("FROM dbstat", "FROM main.dbstat_that_is_not")
    )
    assert "unknown: this SQLite was built without dbstat" in program("db", "stats").out
    found = program("db", "stats", "--json").json
    assert (found["tables"], found["search_index_bytes"]) == (None, None)
    assert found["bytes"] > 0


@pytest.mark.parametrize(
    ("change", "code", "note"),
    [
        (
            "DELETE FROM convstore_search_documents WHERE seq IN (0, 9)",
            7,
            "does not have 4 messages or titles; run `convstore",
        ),
        ("UPDATE convstore_search_documents SET seq = 900 WHERE seq = 9", 7, "2 entries without a message or title"),
        ("INSERT INTO convstore_search_backlog VALUES ('', 'long', 0)", 0, ""),
    ],
)
def test_verify_finds_what_the_search_index_lacks(
    on_each: Program, database_url: str, chat_server: ChatServer, change: str, code: int, note: str
) -> None:
    fill(database_url, chat_server)
    rows = Rows(database_url)
    rows.change(change)
    rows.close()
    ran = on_each("db", "verify")
    assert ran.code == code
    assert note in ran.err
    found = on_each("db", "verify", "--json").json
    assert (found["damages"], found["search_index"]["complete"]) == ([], code == 0)
    if "messages or titles" in note:
        on_each("db", "reindex", "--all")
        assert on_each("db", "verify").err == ""


def test_verify_finds_texts_without_their_words(on_each: Program, database_url: str, chat_server: ChatServer) -> None:
    fill(database_url, chat_server)
    rows = Rows(database_url)
    if database_url.startswith("sqlite"):
        rows.change("INSERT INTO convstore_search_terms (convstore_search_terms) VALUES ('delete-all')")
    else:
        rows.change("UPDATE convstore_search_documents SET terms = '{1}'")
    rows.close()
    ran = on_each("db", "verify")
    assert ran.code == 7
    assert "1 of 1 messages without all their words" in ran.err
    assert "98 of 98 messages without" in on_each("db", "verify", "--all-terms").err
    assert on_each("db", "verify", "long", "--all-terms", "--json").json["search_index"]["incomplete"] == 43


def test_verify_finds_a_damaged_full_text_table(program: Program, rows: Rows) -> None:
    program("new", "--id", "c", "--system", "some words")
    assert program("db", "verify").code == 0
    rows.change("DELETE FROM convstore_search_terms_data WHERE id > 10")
    ran = program("db", "verify")
    assert ran.code == 7, ran


def test_a_backup_carries_the_search_index_tags_ratings_and_the_archive(program: Program, tmp_path: Path) -> None:
    program("new", "--id", "c", "--system", "findable")
    program("say", "Hello", "-c", "c")
    assert program("tag", "c", "work").code == 0
    assert program("rate", "-c", "c", "3", "good", "--note", "yes").code == 0
    program("new", "--id", "old", "--system", "older")
    program("archive", "old")
    file = str(tmp_path / "monday.db")
    assert program("db", "backup", file).code == 0
    for change in (("untag", "c", "work"), ("unarchive", "old"), ("rate", "-c", "c", "3", "none")):
        assert program(*change).code == 0, change
    program("new", "--id", "later", "--system", "later")
    assert program("db", "restore", file).code == 0
    restored = program("db", "stats", "--json").json
    assert (restored["conversations"], restored["archived"], restored["unindexed"]) == (2, 1, 0)
    assert program("db", "verify", "--all-terms").err == ""
    for query, found in (("findable", 1), ("later", 0)):
        assert len(program("search", query, "--json").json) == found
        with Store(file) as store:
            assert len(store.search(query).hits) == found
    with Store(file) as store:
        assert store.get("c").tags == ("work",)
        assert [conversation.id for conversation in store.list(tags=["work"])] == ["c"]
        assert [rating.note for rating in store.ratings("c")] == ["yes"]


def test_on_postgresql_a_backup_names_the_command_to_run(program: Program) -> None:
    url = "postgresql://app:geheim@localhost:1/app?schema=Tenant&sslpassword=x"
    ran = program("db", "backup", "mon day.db", "--db", url).failed(2, "PostgreSQL server")
    assert shlex.split(ran.err.split("own tools: ")[1]) == [
        "pg_dump",
        "--format=custom",
        '--table="Tenant".convstore_*',
        "--file=mon day.db",
        "--dbname=postgresql://app@localhost:1/app",
    ]
    ran = program("db", "restore", "monday.db", "--db", url).failed(2)
    assert shlex.split(ran.err.split("own tools: ")[1]) == [
        "pg_restore",
        "--clean",
        "--if-exists",
        "--single-transaction",
        "--dbname=postgresql://app@localhost:1/app",
        "monday.db",
    ]
