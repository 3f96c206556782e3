"""Test `convstore db verify`: it finds every kind of damage, and nothing in an undamaged database."""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from contextlib import closing
from pathlib import Path

import pytest

from convstore.testing import ChatServer, Reply
from tests.cli.program import Program
from tests.faults.clients import open_store

IMAGE = {
    "type": "image_url",
    "image_url": {"url": "data:image/png;base64," + b64encode(bytes(range(256)) * 12).decode()},
}


def fill(url: str, chat_server: ChatServer) -> None:
    """Store conversations of two owners with everything that a conversation can have."""
    with open_store(url, chat_server.url) as store:
        for owner in ("", "user-42"):
            chat = store.for_owner(owner)
            chat.new(id="long", messages=[{"role": "system", "content": "Be brief."}], name="long")
            for number in range(40):
                chat.append("long", {"role": ("user", "assistant")[number % 2], "content": f"message {number}"})
            chat.say("long", [{"role": "user", "content": [IMAGE]}], idempotency_key="k")
            chat.pin("long", 2)
            fork = chat.fork("long", at=30, new_id="fork").id
            chat.say(fork, "Hi")
            chat.fork(fork, new_id="fork-of-fork")
            chat.say("fork-of-fork", "Hi")
            chat.undo("long")
            chat.retry("fork")
            chat_server.script(Reply("A summary."))
            chat.compact("fork", keep_last=1)
            chat.new(id="deleted", messages=[{"role": "user", "content": "x"}])
            chat.delete("deleted")
            chat.new(id="empty")


def test_nothing_is_damaged_in_databases_that_convstore_wrote(
    on_each: Program, database_url: str, chat_server: ChatServer
) -> None:
    fill(database_url, chat_server)
    ran = on_each("db", "verify")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith(": 10 conversations, 98 messages, 10 turns, no damage\n")
    found = on_each("db", "verify", "--json").json
    assert (found["damages"], found["attachments"]) == ([], 2)
    one = on_each("db", "verify", "long", "--owner", "user-42", "--json").json
    assert (one["conversations"], one["messages"], one["damages"]) == (1, 43, [])
    assert on_each("db", "verify", "nobody").code == 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("messages SET content = 'changed' WHERE seq = 20", "message seq 20 does not fit its digest"),
        ("messages SET position = 99 WHERE seq = 20", "message seq 20: its position is 99, not 20"),
        ("messages SET context_seq = 5 WHERE seq = 20", "message seq 20: the system message before it is seq 1, not 5"),
        ("messages SET back_32 = 3 WHERE seq = 40", "message seq 40: its ancestor for a stride of 32 is seq 32, not 3"),
        ("messages SET turn_seq = 77 WHERE seq = 20", "message seq 20: its turn 77 is missing"),
        ("messages SET parent_seq = 25 WHERE seq = 20", "message seq 20 is its own ancestor"),
        ("messages SET seq = 500 WHERE seq = 20", "message seq 20 is missing"),
        ("conversations SET head_seq = 500 WHERE id = 'long'", "message seq 500, its head or a pin, is missing"),
        ("conversations SET length = 3 WHERE id = 'long'", "is at position 41, not 3"),
        ("conversations SET pins = '[[2, 7]]' WHERE id = 'long'", "message seq 2, its head or a pin, is at position 2"),
        ("conversations SET redo = '[900]' WHERE id = 'long'", "message seq 900, which `redo` returns to, is missing"),
        ("conversations SET next_seq = 3 WHERE id = 'long'", "its next seq is 3, but message seq 43 exists"),
        ("conversations SET next_turn = 1 WHERE id = 'long'", "its next turn is 1, but turn 1 exists"),
        ("conversations SET lineage = '[[\"gone\", 30, 0]]' WHERE id = 'fork'", "conversation 'gone', which keeps a"),
        ("conversations SET lineage = 'x' WHERE id = 'fork'", "its lineage cannot be decoded"),
        ("conversations SET running_turn = 3 WHERE id = 'empty'", "its running turn and its lease do not fit"),
        (
            "conversations SET title = '\"x' WHERE id = 'deleted'",
            "its settings, metadata, title or tags cannot be",
        ),
        ("turns SET output_seq = 900 WHERE conversation_id = 'long'", "message seq 900 is missing"),
        ("turns SET base_seq = 900 WHERE conversation_id = 'long'", "message seq 900, of turn 1, is missing"),
        ("turns SET usage = '[' WHERE conversation_id = 'long'", "turn 1 cannot be decoded"),
        ("summaries SET up_to_position = 1", "ends at no message"),
        ("summaries SET previous_turn = 99", "replaces a later one"),
        ("summaries SET text = x'00'", "column convstore_summaries.text does not hold a text"),
        ("attachments SET data = x'00'", "its bytes were changed"),
        ("attachments SET data = 5", "column convstore_attachments.data does not hold bytes"),
    ],
)
def test_each_kind_of_damage_is_listed_and_ends_with_7(
    program: Program, sqlite_url: str, chat_server: ChatServer, change: str, problem: str
) -> None:
    fill(sqlite_url, chat_server)
    with closing(sqlite3.connect(Path(sqlite_url.removeprefix("sqlite:///")))) as connection, connection:
        connection.execute(f"UPDATE convstore_{change}")
    ran = program("db", "verify")
    assert ran.code == 7
    assert problem in ran.out, ran.out
    assert ran.err.startswith("convstore: ")
    assert "from a backup" in ran.err
    found = program("db", "verify", "--json")
    assert found.code == 7
    assert any(problem in damage["problem"] for damage in found.json["damages"])


def test_an_older_schema_is_refused_and_not_upgraded(program: Program, sqlite_url: str) -> None:
    Path(sqlite_url.removeprefix("sqlite:///")).unlink()
    ran = program("db", "verify")
    assert ran.code == 7
    assert "convstore db upgrade" in ran.err


def test_a_row_without_its_conversation_is_found(program: Program, sqlite_url: str, chat_server: ChatServer) -> None:
    fill(sqlite_url, chat_server)
    with closing(sqlite3.connect(Path(sqlite_url.removeprefix("sqlite:///")))) as connection, connection:
        connection.execute("DELETE FROM convstore_conversations WHERE id = 'deleted'")
    ran = program("db", "verify")
    assert ran.code == 7
    assert "does not have its conversation" in ran.out
