"""Test that `logs.db` of both generations of `llm` is read, from files that real releases wrote."""

import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.llm_logs import read_llm_logs
from tests.transfer.damage import check_damaged, check_whole, overwrite, read_all

DATA = Path(__file__).parent / "data"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
PDF = {
    "type": "file",
    "file": {"filename": "attachment", "file_data": "data:application/pdf;base64,JVBERi0xLjQgc21hbGw="},
}
LINK = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}

CAPITAL = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "How many people live there?"},
    {"role": "assistant", "content": "About two million."},
]


def call(name: str, number: int, **arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_{name}_{number}", "type": "function", "function": function}


TOOLS = [
    {"role": "user", "content": "Weather in Rome and Oslo?"},
    {
        "role": "assistant",
        "content": "I will look.",
        "tool_calls": [call("weather", 0, city="Rome"), call("weather", 1, city="Oslo"), call("picture", 2)],
    },
    {"role": "tool", "tool_call_id": "call_weather_0", "content": "21 degrees in Rome"},
    {"role": "tool", "tool_call_id": "call_weather_1", "content": "21 degrees in Oslo"},
    {"role": "tool", "tool_call_id": "call_picture_2", "content": "here it is"},
    {"role": "user", "content": [IMAGE]},
    {"role": "assistant", "content": "Both 21 degrees."},
]
FILES: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE, LINK, PDF]},
    {"role": "assistant", "content": "A red dot."},
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "A long story about 天气.\nAnd this text?"},
    {"role": "assistant", "content": "A thought."},
]
DOG = [{"role": "user", "content": "A dog"}, {"role": "assistant", "content": '{"name": "Rex"}'}]


@pytest.fixture
def unpack(tmp_path: Path) -> Any:
    def write(name: str) -> Path:
        path = tmp_path / "logs.db"
        path.write_bytes(gzip.decompress((DATA / f"{name}.db.gz").read_bytes()))
        return path

    return write


def read_path(conversation: ImportedConversation) -> list[Any]:
    """Return the messages from the first one to the head."""
    messages = {message.id: message for message in conversation.messages}
    path = []
    at = conversation.head
    while at is not None:
        path.append(messages[at].message)
        at = messages[at].parent
    return path[::-1]


def test_a_file_of_llm_0_31_is_read_with_systems_tools_attachments_fragments_and_schemas(unpack: Any) -> None:
    found = read_all(read_llm_logs(unpack("llm-0.31")))

    assert [read_path(conversation) for conversation in found] == [CAPITAL, TOOLS, FILES, DOG]
    assert [[m.message for m in conversation.messages] for conversation in found] == [CAPITAL, TOOLS, FILES, DOG]
    assert [conversation.title for conversation in found] == [
        "Capital of France?", "Weather in Rome and Oslo?", "What is this?", "A dog",
    ]  # fmt: skip
    assert {conversation.model for conversation in found} == {"scripted"}
    assert found[3].metadata == {"schema": {"type": "object", "properties": {"name": {"type": "string"}}}}
    assert all(conversation.created_at == conversation.messages[0].created_at for conversation in found)
    assert [message.model for message in found[0].messages] == [None, None, "scripted", None, "scripted"]


def test_a_file_of_llm_0_36_is_read_as_a_tree_with_forks(unpack: Any) -> None:
    found = read_all(read_llm_logs(unpack("llm-0.36")))

    # This release sends a system prompt only at the beginning, and keeps the reasoning.
    files = [*FILES[:2], FILES[3], {"role": "assistant", "content": "A thought.", "reasoning_content": "Let me think."}]
    count = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One."}]
    again = [{"role": "user", "content": "Again."}, {"role": "assistant", "content": "Two."}]
    assert [read_path(conversation) for conversation in found] == [
        CAPITAL, TOOLS, files, DOG, count, count + again, count,
    ]  # fmt: skip
    assert found[3].metadata == {"schema": {"type": "object", "properties": {"name": {"type": "string"}}}}
    assert (found[6].title, found[6].metadata) == ("A fork", {"forked_from": found[4].id})
    assert found[6].messages[1].model == "scripted"
    assert [message.model for message in found[0].messages] == [None, None, "scripted", None, "scripted"]


def test_a_conversation_that_went_on_after_an_upgrade_keeps_the_ids_of_its_messages(unpack: Any) -> None:
    old = read_all(read_llm_logs(unpack("llm-0.31")))
    new = read_all(read_llm_logs(unpack("llm-upgraded")))

    assert [conversation.id for conversation in new] == [conversation.id for conversation in old]
    assert new[1:] == old[1:]
    assert [message.id for message in new[0].messages[:5]] == [message.id for message in old[0].messages]
    assert read_path(new[0])[5:] == [
        {"role": "user", "content": "Which country again?"},
        {"role": "assistant", "content": "Yes."},
    ]
    assert new[0].title == "Capital of France?"


def test_replies_that_a_thread_no_longer_points_at_are_branches(unpack: Any) -> None:
    path = unpack("llm-0.36")
    with sqlite3.connect(path) as connection:
        connection.execute("update turns set thread_id = (select min(id) from threads)")
        connection.execute("delete from threads where id <> (select min(id) from threads)")

    (found,) = read_all(read_llm_logs(path))

    roots = [message for message in found.messages if message.parent is None]
    assert [message.message["content"] for message in roots[1:4]] == [
        "Weather in Rome and Oslo?", FILES[0]["content"], "A dog",
    ]  # fmt: skip
    assert read_path(found) == CAPITAL


def test_calls_and_results_without_ids_are_paired_by_name(unpack: Any) -> None:
    path = unpack("llm-0.31")
    with sqlite3.connect(path) as connection:
        connection.execute("update tool_calls set tool_call_id = null")
        connection.execute("update tool_results set tool_call_id = null")

    assert read_path(read_all(read_llm_logs(path))[1]) == TOOLS


def test_attachments_that_are_too_large_or_only_named_are_noted(unpack: Any) -> None:
    path = unpack("llm-0.31")
    with sqlite3.connect(path) as connection:
        connection.execute("update attachments set content = zeroblob(20971521) where type = 'application/pdf'")
        connection.execute(
            "update attachments set content = null, path = '/tmp/a.png' where url is null and type = 'image/png'"
        )

    found = read_all(read_llm_logs(path))

    assert found[2].notes == [
        "an attachment's bytes are not in the database, only its path",
        "an attachment is larger than 20 MB",
    ]
    assert found[2].messages[0].message["content"] == [{"type": "text", "text": "What is this?"}, LINK]


def test_an_older_schema_without_tools_and_attachments_is_read(tmp_path: Path) -> None:
    path = tmp_path / "logs.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "create table conversations (id text primary key, name text, model text);"
            "create table responses (id text primary key, model text, prompt text, system text, response text,"
            " conversation_id text, datetime_utc text);"
            "insert into conversations values ('c', 'Hi', 'gpt');"
            "insert into responses values ('r1', 'gpt', 'Hi', null, 'Hello', 'c', '2023-07-04T10:00:00');"
            "insert into responses values ('r2', 'gpt', 'Bye', 'Be brief.', 'Ciao', null, 'some day');"
        )

    alone, found = read_all(read_llm_logs(path))

    assert (alone.id, found.id) == ("r2", "c")
    assert [message.message["content"] for message in alone.messages] == ["Be brief.", "Bye", "Ciao"]
    assert [message.message["content"] for message in found.messages] == ["Hi", "Hello"]


def test_a_thread_whose_messages_are_lost_or_in_a_circle_is_read_as_far_as_it_goes(unpack: Any) -> None:
    path = unpack("llm-0.36")
    with sqlite3.connect(path) as connection:
        connection.execute("pragma foreign_keys = off")
        connection.execute("delete from messages where role = 'system'")
        connection.execute("update messages set parent_hash = hash where role = 'user' and parent_hash is null")

    found = read_all(read_llm_logs(path))

    assert [message.message for message in found[0].messages] == CAPITAL[1:]
    assert found[0].notes == ["a message that others follow is not in the database (2 times)"]


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("Not a database.")
    with sqlite3.connect(other) as connection:
        connection.execute("create table things (id)")

    assert list(read_llm_logs(text)) == [Problem(str(text), "is not a SQLite database")]
    assert list(read_llm_logs(other)) == [Problem(str(other), "has no conversations of `llm` 0.5 or newer")]
    assert isinstance(next(iter(read_llm_logs(tmp_path / "none.db"))), Problem)


def test_reading_leaves_the_file_and_its_folder_as_they_are(unpack: Any) -> None:
    path = unpack("llm-0.31")
    before = path.read_bytes()

    read_all(read_llm_logs(path))

    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_file_in_a_folder_that_cannot_be_written_is_read(unpack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = unpack("llm-0.31")
    found = read_all(read_llm_logs(path))
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode = wal")
    connection.close()
    monkeypatch.setattr("os.access", lambda *_: False)

    assert read_all(read_llm_logs(path)) == found
    assert list(path.parent.iterdir()) == [path]


def test_a_large_file_is_read_the_same_without_the_list_of_owners(unpack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = unpack("llm-0.31")
    found = read_all(read_llm_logs(path))
    monkeypatch.setattr("convstore.transfer.llm_database._MOST_OWNERS", 0)

    assert read_all(read_llm_logs(path)) == found


@pytest.mark.parametrize("name", ["llm-0.31", "llm-0.36", "llm-upgraded"])
def test_damaged_databases_give_problems_and_whole_conversations(name: str, unpack: Any, tmp_path: Path) -> None:
    data = unpack(name).read_bytes()

    problems, conversations = check_damaged(tmp_path / "logs.db", data, read_llm_logs, overwrite)

    assert problems > 30
    assert conversations > 100


def test_damaged_values_give_problems_and_whole_conversations(unpack: Any) -> None:
    path = unpack("llm-upgraded")
    values = ["null", "''", "x'00ff'", "1", "'[[['", "'\"text\"'", "9e999"]
    with sqlite3.connect(path) as connection:
        tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        columns = [
            (table, row[1])
            for table in tables
            if "_fts" not in table
            for row in connection.execute(f"pragma table_info('{table}')")
        ]
    data = path.read_bytes()
    for number, (table, column) in enumerate(columns):
        path.write_bytes(data)
        connection = sqlite3.connect(path)
        connection.execute("pragma foreign_keys = off")
        connection.execute("pragma synchronous = off")
        for value in values[number % len(values) :] + values:
            try:
                connection.execute(f'update "{table}" set "{column}" = {value}')
                break
            except sqlite3.Error:  # a key
                continue
        connection.commit()
        connection.close()
        list(check_whole(read_llm_logs(path)))
