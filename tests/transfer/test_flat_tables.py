"""Test the tables of messages and turns, as CSV and as Parquet."""

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convstore.errors import InvalidInput
from convstore.messages.completion import Usage
from convstore.messages.message import extract_text
from convstore.transfer.writers import parquet_tables
from convstore.transfer.writers.csv_tables import write_csv_messages, write_csv_turns
from convstore.transfer.writers.flat_tables import MESSAGES, TURNS
from convstore.transfer.writers.parquet_tables import write_parquet_messages, write_parquet_turns
from convstore.transfer.writers.written_text import picture_control_characters
from convstore.values.exported import ExportedConversation
from convstore.values.results import TurnStatus
from tests.transfer.exported import (
    BEGIN,
    CALL,
    HELLO,
    HI,
    PHOTO,
    any_tree,
    join,
    make_exported,
    make_path,
    make_turn,
    read_crosswoz,
    read_mt_bench,
)

Rows = list[dict[str, Any]]
Write = Callable[[Iterable[ExportedConversation]], Iterator[bytes]]


def read_csv(write: Write, *exported: ExportedConversation) -> Rows:
    return list(csv.DictReader(io.StringIO(join(write(exported)).decode(), newline="")))


def read_parquet(write: Write, *exported: ExportedConversation) -> Rows:
    rows: Rows = pyarrow.parquet.read_table(io.BytesIO(join(write(exported)))).to_pylist()
    return rows


CHAT = make_exported(
    [(0, PHOTO), (1, {"role": "assistant", "content": '=1+1\r\n"a", b'}), (1, {**CALL, "name": "ann"})],
    head=2,
    ratings={2: "bad"},
    models={2: "gpt-4o"},
    statuses={2: TurnStatus.INTERRUPTED},
    turns=[
        make_turn(
            1,
            2,
            usage=Usage({"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}),
            time_to_first_token=0.125,
        ),
        make_turn(
            2,
            status=TurnStatus.FAILED,
            usage=None,
            cost=None,
            latency=None,
            ended_at=None,
            model=None,
            finish_reason=None,
            error={"type": "x", "message": "it broke"},
        ),
        make_turn(3, purpose="summary", request={}, usage=Usage({})),
    ],
)


def test_csv_has_the_columns_and_the_form_that_the_page_names() -> None:
    assert join(write_csv_messages([CHAT])).decode() == (
        "conversation,title,position,seq,parent_seq,on_path,role,name,text,tool_calls,model,status,rating,note,"
        "created_at,tokens,turn,redacted_at\r\n"
        "chat,A chat,1,1,0,true,user,,What is on it?,,,,,,2026-01-02T03:05:05.678901+00:00,7,,\r\n"
        'chat,A chat,2,2,1,true,assistant,,"=1+1\r\n""a"", b",,gpt-4o,interrupted,bad,so it is,'
        "2026-01-02T03:06:05.678901+00:00,7,,\r\n"
        'chat,A chat,2,3,1,false,assistant,ann,,"[{""id"": ""c1"", ""type"": ""function"", ""function"": '
        '{""name"": ""look"", ""arguments"": ""{\\""at\\"": \\""sky\\""}""}}]",,,,,'
        "2026-01-02T03:07:05.678901+00:00,7,,\r\n"
    )
    assert join(write_csv_turns([CHAT])).decode() == (
        "conversation,turn,purpose,status,model,requested_model,finish_reason,output_seq,prompt_tokens,"
        "completion_tokens,total_tokens,cached_tokens,reasoning_tokens,cost,latency,time_to_first_token,started_at,ended_at,error\r\n"
        "chat,1,,completed,gpt-4o-2024,gpt-4o,stop,2,9,3,,4,,0.25,1.5,0.125,2026-01-02T03:04:05.678901+00:00,"
        "2026-01-02T03:04:07.678901+00:00,\r\n"
        "chat,2,,failed,,gpt-4o,,,,,,,,,,,2026-01-02T03:04:05.678901+00:00,,it broke\r\n"
        "chat,3,summary,completed,gpt-4o-2024,,stop,,,,,,,0.25,1.5,,2026-01-02T03:04:05.678901+00:00,"
        "2026-01-02T03:04:07.678901+00:00,\r\n"
    )


def test_parquet_has_the_same_columns_with_their_types() -> None:
    found = pyarrow.parquet.read_table(io.BytesIO(join(write_parquet_messages([CHAT]))))
    types = {field.name: str(field.type) for field in found.schema}
    assert list(types) == list(MESSAGES.columns)
    assert {name: types[name] for name in ("seq", "on_path", "created_at", "text", "turn")} == {
        "seq": "int64",
        "on_path": "bool",
        "created_at": "timestamp[us, tz=UTC]",
        "text": "string",
        "turn": "int64",
    }
    second = found.to_pylist()[1]
    assert (second["text"], second["on_path"], second["tool_calls"]) == ('=1+1\r\n"a", b', True, None)
    assert second["created_at"] == BEGIN + timedelta(minutes=2)

    turns = pyarrow.parquet.read_table(io.BytesIO(join(write_parquet_turns([CHAT]))))
    assert turns.schema.names == list(TURNS.columns)
    assert [(one["cost"], one["cached_tokens"], one["ended_at"], one["error"]) for one in turns.to_pylist()] == [
        (0.25, 4, BEGIN + timedelta(seconds=2), None),
        (None, None, None, "it broke"),
        (0.25, None, BEGIN + timedelta(seconds=2), None),
    ]


@pytest.mark.parametrize("write", [write_csv_messages, write_csv_turns])
def test_csv_without_conversations_is_its_header(write: Write) -> None:
    assert join(write([])).count(b"\r\n") == 1


@pytest.mark.parametrize("write", [write_parquet_messages, write_parquet_turns])
def test_parquet_without_conversations_has_its_columns(write: Write) -> None:
    found = pyarrow.parquet.read_table(io.BytesIO(join(write([]))))

    assert (found.num_rows, found.num_columns > 10) == (0, True)


@settings(max_examples=40, deadline=None)
@given(st.lists(any_tree(), max_size=3))
def test_rows_of_random_trees_are_whole_and_the_same_in_both(exported: list[ExportedConversation]) -> None:
    from_csv, from_parquet = read_csv(write_csv_messages, *exported), read_parquet(write_parquet_messages, *exported)

    records = [one.record for each in exported for one in each.messages]
    assert len(from_csv) == len(from_parquet) == len(records)
    for one, other, record in zip(from_csv, from_parquet, records, strict=True):
        for column, kind in MESSAGES.columns.items():
            assert one[column] == to_text(other[column], kind), column
        assert (int(one["seq"]), int(one["parent_seq"])) == (record.seq, record.parent_seq)
        text = extract_text(record.message)
        assert other["text"] == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def to_text(value: Any, kind: str) -> str:
    """Return a value as a field of CSV."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value).lower() if kind == "boolean" else picture_control_characters(str(value))


def test_the_data_sets_come_back_equal(shared_data: Path) -> None:
    exported = [*read_crosswoz(shared_data), *read_mt_bench(shared_data)]
    said = [
        (one.conversation.id, each.record.message["role"], each.record.message["content"])
        for one in exported
        for each in one.messages
    ]

    for rows in (read_csv(write_csv_messages, *exported), read_parquet(write_parquet_messages, *exported)):
        assert [(row["conversation"], row["role"], row["text"]) for row in rows] == said


def test_parquet_is_written_in_groups_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_tables, "MAX_GROUP_ROWS", 10)
    asked = 0

    def make_all() -> Iterator[ExportedConversation]:
        nonlocal asked
        for _ in range(30):
            asked += 1
            yield make_path(HELLO, HI, id=f"chat-{asked}")

    pieces = write_parquet_messages(make_all())
    first = next(pieces)
    assert (asked, len(first) > 100) == (5, True)
    file = pyarrow.parquet.ParquetFile(io.BytesIO(first + join(pieces)))
    assert (file.metadata.num_rows, file.num_row_groups) == (60, 6)
    found = [row["conversation"] for row in file.read().to_pylist()]
    assert found == [f"chat-{number}" for number in range(1, 31) for _ in range(2)]


@pytest.mark.parametrize("write", [write_parquet_messages, write_parquet_turns])
def test_without_pyarrow_the_error_names_the_extra_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    with pytest.raises(InvalidInput, match=r"needs the extra: pip install 'convstore\[parquet\]'"):
        write(iter(()))
