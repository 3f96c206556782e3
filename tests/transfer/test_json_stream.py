"""Test how the items of a JSON file are read one after another."""

import io
import json
import math
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from convstore.transfer import json_stream
from convstore.transfer.export_files import ExportFile
from convstore.transfer.imported import Problem
from convstore.transfer.json_stream import Item, ItemForm, read_items

FORM = ItemForm("item", lambda value: isinstance(value, dict) and "id" in value, wrappers=("items",))


def read(data: bytes | str) -> list[Any]:
    """Return the values of the items, and the reasons of the problems."""
    stream = io.BytesIO(data.encode() if isinstance(data, str) else data)
    file = ExportFile("a.json", None, lambda: nullcontext(stream))
    return [result.value if isinstance(result, Item) else result.reason for result in read_items(file, FORM)]


@pytest.fixture(params=[1, 7, 64, 2**20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_items_are_read_from_a_list_or_one_after_another(encoding: str) -> None:
    items = [{"id": number, "text": 'é天🙂"]},{' * number, "n": [1.5, -2, None, True]} for number in range(30)]

    assert read(json.dumps(items, ensure_ascii=False).encode(encoding)) == items
    assert read(json.dumps(items, indent=2).encode(encoding)) == items
    assert read("\n".join(json.dumps(item) for item in items).encode(encoding)) == items
    assert read(json.dumps({"meta": 1, "items": items}).encode(encoding)) == items


@pytest.mark.usefixtures("chunk")
def test_scalars_at_the_end_of_a_chunk_are_whole() -> None:
    assert read("[1234567890, 1.5e10, true, null, -7, " + '"text"]') == [1234567890, 1.5e10, True, None, -7, "text"]
    assert read("12") == [12]


@pytest.mark.usefixtures("chunk")
def test_a_damaged_item_is_a_problem_and_the_next_is_read() -> None:
    text = '[{"id": 1}, {"id": 2, "x": [{"a": 1}, {"b": oops}], "y": [{"c": 1}, {"d": 2}]}, {"id": 3}]'

    first, problem, last = read(text)

    assert (first, last) == ({"id": 1}, {"id": 3})
    assert problem == "it is not JSON: expecting value; 68 characters were skipped"


def test_numbers_that_json_does_not_have_are_read() -> None:
    assert read('{"id": NaN, "a": 1e999, "b": -Infinity}') == [{"id": "NaN", "a": math.inf, "b": "-Infinity"}]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ('{"id": ' + "9" * 5000 + "}", "it has a whole number of more than 4,300 digits"),
        (
            '{"id": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "it is nested more deeply than Python's parser reads, some 1,000 levels",
        ),
    ],
)
def test_numbers_and_nesting_are_limited(item: str, reason: str) -> None:
    problem, after = read(f'[{item}, {{"id": 2}}]')

    assert problem.startswith(reason)
    assert after == {"id": 2}


def test_an_item_is_limited_in_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MAX_ITEM_CHARACTERS", 2**20)
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 2**16)

    problem, after = read('[{"id": "' + "x" * 3 * 2**20 + '"}, {"id": 2}]')

    assert problem.startswith("it is longer than 1,048,576 characters")
    assert after == {"id": 2}


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("", ["it is empty"]),
        ("[]", []),
        (" \n", []),
        ('[{"id": 1}', [{"id": 1}, "it is cut off: the list is not closed"]),
        ('[{"id": 1}, {"id', [{"id": 1}, "it is cut off; 4 characters were skipped"]),
        ("<html></html>", ["it is not JSON: expecting value; 13 characters were skipped"]),
    ],
)
def test_empty_and_cut_files_are_told_apart(text: str, reasons: list[Any]) -> None:
    assert read(text) == reasons


def test_a_file_of_faults_ends_after_a_thousand() -> None:
    results = read("[" + '{"id": x}, {"id": 1}, ' * 1200 + "1]")

    assert results.count({"id": 1}) == 999
    assert results[-1] == "it has more than 1,000 faults; the rest was not read"


def test_bytes_at_random_end_soon() -> None:
    dice = random.Random(5)
    for _ in range(50):
        assert all(
            isinstance(result, (str, int, float, dict)) or result is None for result in read(dice.randbytes(5000))
        )
    assert len(read('{"a":[1,' * 20_000)) == 1


def test_a_stream_that_fails_is_a_problem() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().read(12)

    file = ExportFile("a.json", None, lambda: nullcontext(Failing(b'[{"id": 1}, {"id": 2}]')))

    results = list(read_items(file, FORM))

    assert results[-1] == Problem("a.json", "it cannot be read to its end: Input/output error")
    assert isinstance(results[0], Item)


def test_memory_holds_one_item_whatever_the_size_of_the_file() -> None:
    class Long(io.RawIOBase):
        """A list of 300 items of 100 KB."""

        def __init__(self) -> None:
            self._parts = self._make()

        def _make(self) -> Iterator[bytes]:
            yield b"["
            for number in range(300):
                yield b'{"id": %d, "text": "%s"},' % (number, b"x" * 100_000)
            yield b"0]"

        def read(self, size: int = -1) -> bytes:
            data = b""
            while len(data) < size and (part := next(self._parts, None)) is not None:
                data += part
            return data

    tracemalloc.start()
    try:
        file = ExportFile("a.json", None, lambda: nullcontext(Long()))  # type: ignore[arg-type]
        count = sum(isinstance(result, Item) for result in read_items(file, FORM))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert count == 301
    assert peak < 12 * 2**20
