"""Damage SQLite files, in every column and at random places: each command ends with right data or a named error."""

from __future__ import annotations

import random
import shutil
import sqlite3
from base64 import b64encode
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Table

from convstore import Store
from convstore.db.tables import metadata
from convstore.testing import ChatServer, Reply
from tests.cli.program import Program, Ran
from tests.faults.clients import open_store

VALUES = {
    "bytes": "x'ff00'",
    "bytes that are no text": "CAST(x'61ff' AS TEXT)",
    "a text": "'abc'",
    "JSON of depth 5000": "'" + "[" * 5000 + "'",
    "a number": "7",
    "a fraction": "1.5",
    "a huge number": "9e999",
    "a negative number": "-3",
}
COMMANDS = (
    ("list",),
    ("list", "--json"),
    ("show", "victim"),
    ("show", "victim", "--tree"),
    ("show", "victim", "--json"),
    ("turns", "victim"),
    ("usage",),
    ("usage", "--by", "model"),
    ("say", "-c", "victim", "--dry-run", "Hi", "--last", "1"),
    ("show", "fork"),
    ("undo", "victim"),
    ("redo", "victim"),
    ("say", "-c", "victim", "--wait", "0", "Hi"),
    ("retry", "victim", "--wait", "0"),
    ("fork", "victim"),
    ("compact", "victim"),
    ("checkout", "victim", "2"),
    ("say", "-c", "victim", "--wait", "0", "--no-history", "Hi"),
    ("list",),
)
VERIFY = ("db", "verify")
SHOW = ("show", "victim")
FEW = (COMMANDS[0], COMMANDS[3], COMMANDS[5], COMMANDS[6], COMMANDS[12])
TABLES = [table for table in metadata.sorted_tables if table.name != "convstore_compatibility"]
IMAGE = {
    "type": "image_url",
    "image_url": {"url": "data:image/png;base64," + b64encode(bytes(range(256)) * 12).decode()},
}


@pytest.fixture
def damageable(program: Program, sqlite_url: str, chat_server: ChatServer) -> Path:
    """Return a SQLite file in which every table has rows."""
    with open_store(sqlite_url, chat_server.url) as store:
        store.new(id="victim", name="named", title="A title", system="Be brief.", metadata={"a": 1}, temperature=0.5)
        store.say("victim", "one", idempotency_key="k")
        store.say("victim", [{"role": "user", "content": [{"type": "text", "text": "Look"}, IMAGE]}])
        store.pin("victim", 2)
        store.fork("victim", new_id="fork")
        store.say("fork", "two")
        store.new(id="other", title="Unharmed")
        chat_server.script(Reply("A summary."))
        store.compact("victim", keep_last=1)
        store.undo("victim")
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection:
        with connection:
            connection.execute("INSERT INTO convstore_deltas VALUES ('', 'victim', 1, 1, '{}')")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def check_ended(ran: Ran) -> None:
    """Check that a command ended with a result or with one line that names what is wrong."""
    assert ran.code in (0, 2, 3, 4, 5, 6, 7), ran
    assert "Traceback" not in ran.err
    assert "fault of convstore" not in ran.err
    if ran.code:
        assert ran.err.startswith("convstore: "), ran


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name.removeprefix("convstore_"))
def test_a_value_of_another_type_is_named_or_harmless(
    program: Program, damageable: Path, tmp_path: Path, table: Table
) -> None:
    whole = tmp_path / "whole.db"
    shutil.copy(damageable, whole)
    for number, column in enumerate(table.c):
        # Two values for each column, because all of them would take minutes.
        for value in (list(VALUES)[number % len(VALUES)], list(VALUES)[(number * 3 + 1) % len(VALUES)]):
            _restore(whole, damageable)
            with closing(sqlite3.connect(damageable)) as connection, connection:
                connection.execute("PRAGMA ignore_check_constraints = ON")
                try:
                    connection.execute(
                        f"UPDATE {column.table.name} SET {column.name} = {VALUES[value]} "
                        f"WHERE rowid = (SELECT min(rowid) FROM {column.table.name})"
                    )
                except sqlite3.IntegrityError:
                    continue  # the file's own rules refuse it
            verified = program(*VERIFY)
            for command in (VERIFY, *COMMANDS[:-1]) if number % 6 == 0 else (VERIFY, *FEW):
                ran = program(*command) if command != VERIFY else verified
                try:
                    check_ended(ran)
                    if "restore this row from a backup" in ran.err:
                        assert verified.code == 7
                except AssertionError as error:
                    raise AssertionError(f"{column} = {value}: convstore {' '.join(command)}") from error


def _restore(whole: Path, path: Path) -> None:
    for left in path.parent.glob(path.name + "-*"):
        if left.is_dir():  # of lock files
            shutil.rmtree(left)
        else:
            left.unlink()
    shutil.copy(whole, path)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("convstore_messages SET content = x'ff00' WHERE seq = 2", "column convstore_messages.content does not hold"),
        ("convstore_messages SET content = CAST(x'61ff' AS TEXT) WHERE seq = 2", "convstore_messages.content does not"),
        (
            "convstore_messages SET created_at = 'yesterday' WHERE seq = 2",
            "convstore_messages.created_at does not hold a",
        ),
        ("convstore_messages SET position = 'x' WHERE seq = 2", "convstore_messages.position does not hold a whole"),
        ("convstore_conversations SET head_seq = 'x' WHERE id = 'victim'", "convstore_conversations.head_seq does not"),
    ],
)
def test_the_error_names_the_conversation_the_message_and_the_column(
    program: Program, damageable: Path, damage: str, named: str
) -> None:
    _damage(damageable, damage)
    ran = program("show", "victim")
    assert ran.code == 7
    assert ran.err.startswith("convstore: conversation 'victim': ")
    assert named in ran.err
    if "messages" in damage:
        assert "message seq 2: " in ran.err


@pytest.mark.parametrize(
    "change", ["created_at = 'yesterday'", "title = CAST(x'61ff' AS TEXT)", "settings = '{'", "head_seq = x'00'"]
)
def test_list_shows_the_others_and_names_the_damaged_conversation(
    program: Program, damageable: Path, change: str
) -> None:
    _damage(damageable, f"convstore_conversations SET {change} WHERE id = 'victim'")
    for options in ([], ["--json"]):
        ran = program("list", *options)
        assert ran.code == 0
        assert "Unharmed" in ran.out
        assert "fork" in ran.out
        assert '"id": "victim"' not in ran.out
        assert ran.err.startswith("convstore: conversation 'victim': ")
    with Store(f"sqlite:///{damageable}") as store:
        damaged: list[Exception] = []
        assert {found.id for found in store.list(on_damaged=damaged.append)} == {"fork", "other"}
        assert len(damaged) == 1
        with pytest.raises(Exception, match="'victim'"):
            store.list()


def _damage(path: Path, update: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE {update}")


def test_three_hundred_files_with_random_damage_end_with_right_data_or_a_named_error(
    program: Program, damageable: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.db"
    shutil.copy(damageable, whole)
    data = whole.read_bytes()
    right = program(*SHOW).out
    by_code: dict[int, int] = {}
    for seed in range(300):
        chance = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 3, 20))):
            at = chance.randrange(len(damaged))
            some = bytes(chance.randrange(256) for _ in range(chance.choice((1, 1, 4, 60))))
            damaged[at : at + len(some)] = some
        _restore(whole, damageable)
        damageable.write_bytes(bytes(damaged[: len(data)]))
        for command in (COMMANDS[0], SHOW, COMMANDS[8], VERIFY) if seed % 30 else COMMANDS:
            ran = program(*command)
            by_code[ran.code] = by_code.get(ran.code, 0) + 1
            try:
                check_ended(ran)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: convstore {' '.join(command)}") from error
            if command == SHOW and ran.code == 0:
                _check_text(ran.out, right, seed)
    assert by_code[0] > 300
    assert by_code[7] > 100


def _check_text(shown: str, right: str, seed: int) -> None:
    """Check the messages that were shown: each is a whole message of the undamaged file."""
    assert _split_messages(shown) <= _split_messages(right), f"seed {seed}: {shown}"


def _split_messages(shown: str) -> set[str]:
    return {part.split("\n", 1)[-1].strip() for part in shown.split("\n\n")}
