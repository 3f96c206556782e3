"""Test that conversations of mods are read, from files that Go's own package wrote."""

import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from convstore.transfer.gob_values import UnreadableGob, decode_gob
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.mods_conversations import read_mods_conversations
from convstore.transfer.recognition import recognise_kind
from tests.transfer.damage import check_damaged, check_whole, read_all

DATA = Path(__file__).parent / "data"


def call(id: str, path: str) -> dict[str, object]:
    return {"id": id, "type": "function", "function": {"name": "fs_read", "arguments": f'{{"path":"{path}"}}'}}


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Read 天气."},
    {"role": "assistant", "content": None, "tool_calls": [call("c1", "a"), call("c2", "b")]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "tool", "tool_call_id": "c2", "content": "no such file"},
    {"role": "assistant", "content": "Sunny."},
]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "conversations"
    folder.mkdir()
    with sqlite3.connect(folder / "mods.db") as connection:
        connection.executescript(
            "create table conversations (id string not null primary key, title string not null,"
            " updated_at datetime not null default (strftime('%Y-%m-%d %H:%M:%f', 'now')), model string, api string);"
            "insert into conversations values ('aaa', 'Weather', '2025-05-01 10:00:00', 'gpt-4o', 'openai');"
            "insert into conversations values ('bbb', 'Old', '2024-05-01 10:00:00', null, null);"
            "insert into conversations values ('ccc', 'Lost', '2024-05-01 10:00:00', null, null);"
        )
    shutil.copy(DATA / "mods.gob", folder / "aaa.gob")
    shutil.copy(DATA / "mods-old.gob", folder / "bbb.gob")
    return folder / "mods.db"


def test_the_index_its_folder_and_the_folder_above_are_read(index: Path) -> None:
    first, second, lost = check_whole(read_mods_conversations(index))

    assert isinstance(first, ImportedConversation)
    assert [message.message for message in first.messages] == MESSAGES
    assert [message.parent for message in first.messages[1:]] == [message.id for message in first.messages[:-1]]
    assert (first.id, first.title, first.model, first.metadata) == ("aaa", "Weather", "gpt-4o", {"api": "openai"})
    assert (first.head, first.created_at) == (first.messages[-1].id, datetime(2025, 5, 1, 10, tzinfo=UTC))
    assert isinstance(second, ImportedConversation)
    assert [message.message for message in second.messages] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    assert lost == Problem(str(index.parent / "ccc.gob"), "cannot be opened: No such file or directory")
    assert list(read_mods_conversations(index.parent)) == [first, second, lost]
    assert list(read_mods_conversations(index.parent.parent)) == [first, second, lost]
    assert recognise_kind(index) == recognise_kind(index.parent) == "mods"


def test_one_gob_file_is_read_alone(tmp_path: Path) -> None:
    (found,) = read_all(read_mods_conversations(DATA / "mods-long.gob"))

    assert found.id == "mods-long"
    assert found.messages[0].message == {"role": "user", "content": "x" * 300}
    assert recognise_kind(DATA / "mods-long.gob") == "mods"


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("create table things (id)")

    assert list(read_mods_conversations(tmp_path)) == [Problem(str(tmp_path), "has no mods.db")]
    other = tmp_path / "other.db"
    assert list(read_mods_conversations(other)) == [Problem(str(other), "is no index of mods")]


def test_a_path_in_an_id_stays_in_the_folder(index: Path) -> None:
    with sqlite3.connect(index) as connection:
        connection.execute("update conversations set id = '/etc/../' || id where id = 'aaa'")

    first, *_ = check_whole(read_mods_conversations(index))

    assert isinstance(first, ImportedConversation)
    assert first.messages[0].message["content"] == "Be brief."


def test_gob_that_defines_itself_without_end_is_refused() -> None:
    with pytest.raises(UnreadableGob):
        decode_gob(b"")
    with pytest.raises(UnreadableGob):
        decode_gob(b"\xff" * 100)
    endless = (
        bytes.fromhex("0dff89020102ff8a0001ff8a0000") + bytes.fromhex("20ff8a00") + b"\x01" * 30
    )  # a slice of itself
    with pytest.raises(UnreadableGob, match="nested more than 20 levels deep"):
        decode_gob(endless)


@pytest.mark.parametrize("name", ["mods.gob", "mods-old.gob"])
def test_damaged_files_give_problems_and_whole_conversations(name: str, tmp_path: Path) -> None:
    data = (DATA / name).read_bytes()

    problems, conversations = check_damaged(tmp_path / "a.gob", data, read_mods_conversations)

    assert problems > 100
    assert conversations > 1
