"""Test `convstore export`, and `convstore import` of what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convstore.testing import ChatServer, Reply
from tests.cli.program import Program

FORMATS = (
    "jsonl",
    "markdown",
    "html",
    "openai",
    "sharegpt",
    "preferences",
    "csv",
    "csv-turns",
    "parquet",
    "parquet-turns",
)


@pytest.fixture
def games(program: Program, chat_server: ChatServer) -> str:
    program("new", "Other")
    id = program("new", "Olympics", "--name", "games").out.strip()
    chat_server.script(Reply("In Beijing."))
    program("say", "Where were the games?")
    return id


def test_what_is_exported_can_be_imported_again(program: Program, games: str, tmp_path: Path) -> None:
    ran = program("export", "--all", "-o", str(tmp_path / "all.jsonl"))
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.endswith("2 conversation(s), 2 message(s) -> " + str(tmp_path / "all.jsonl") + "\n")
    other = ["--db", str(tmp_path / "other.db")]
    assert program("import", str(tmp_path / "all.jsonl"), *other).out == (
        "convstore: conversations: 2 new, 0 changed, 0 unchanged; 2 messages added\n"
    )
    assert program("show", games, *other, "--json").json == program("show", games, "--json").json
    assert program("export", "--all", *other).out.encode() == (tmp_path / "all.jsonl").read_bytes()
    program("say", "Here", "-c", games)
    program("append", "x", *other)
    assert (tmp_path / "all.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_written(program: Program, games: str, tmp_path: Path, format: str) -> None:
    report = program("export", "--all", "-f", format, "-o", str(tmp_path / "out"), "--json").json
    assert (report["format"], report["conversations"]) == (format, 2)
    assert report["files"] == [str(tmp_path / "out")]
    folder = program("export", "games", "other", "-f", format, "-o", str(tmp_path / "folder") + "/", "--json")
    assert folder.code == 3  # no conversation is called "other"
    program("export", "games", "-f", format, "-o", str(tmp_path / "folder") + "/")
    [path] = (tmp_path / "folder").iterdir()
    assert path.stem == games
    assert path.stat().st_size > 0 or format == "preferences"


def test_the_conversation_used_last_goes_to_stdout(program: Program, games: str) -> None:
    lines = [json.loads(line) for line in program("export").out.splitlines()]
    assert [line.get("id") for line in lines if line["type"] == "conversation"] == [games]
    text = program("export", "-f", "markdown").out
    assert "Where were the games?" in text
    assert "In Beijing." in text
    found = [json.loads(line) for line in program("export", "--search", "beijing").out.splitlines()]
    assert [line["id"] for line in found if line["type"] == "conversation"] == [games]


def test_wrong_exports_say_why(program: Program, games: str, tmp_path: Path) -> None:
    program("export", "games", "--all").failed(2, "REF, --all or --search")
    program("export", "--json").failed(2, "--output")
    program("export", "-f", "docx").failed(2, "docx")
    program("export", "-o", str(tmp_path / "none" / "file")).failed(2, "cannot be written")
    program("import", str(tmp_path / "chat.db")).failed(2)
    (tmp_path / "bad.jsonl").write_text('{"type": "export", "convstore": 9}\n')
    ran = program("import", str(tmp_path / "bad.jsonl"), "--strict")
    assert (ran.code, "upgrade convstore" in ran.err) == (1, True)


def test_an_id_that_is_taken_gets_a_new_one_if_asked_for(program: Program, games: str, tmp_path: Path) -> None:
    path = str(tmp_path / "games.jsonl")
    program("export", "games", "-o", path)
    other = ["--db", str(tmp_path / "other.db")]
    program("new", "--id", games, "--system", "Else", *other)
    ran = program("import", path, "--strict", *other)
    assert (ran.code, "taken by other contents" in ran.err) == (1, True)
    assert program("import", path, "--new-ids", *other).out.startswith("convstore: conversations: 1 new")
