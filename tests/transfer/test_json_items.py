"""Test that files of JSON are read a value at a time, whatever their layout."""

import io
import json
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from convstore.transfer import json_items
from convstore.transfer.imported import Problem
from convstore.transfer.json_items import Item, read_items

VALUES: list[Any] = [
    {"a": [1, 2, {"b": "]}, ["}]},
    {"text": 'quotes \\" and \\\\ and 天气 \n'},
    [],
    {},
    [[["deep"]]],
    "a, text",
    17,
    None,
]


def read(data: bytes | str) -> list[Item | Problem]:
    stream = io.BytesIO(data if isinstance(data, bytes) else data.encode())
    return list(read_items(stream))


def values(found: list[Item | Problem]) -> list[Any]:
    return [item.value if isinstance(item, Item) else item for item in found]


@pytest.mark.parametrize("indent", [None, 0, 1, 4])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n "])
def test_a_list_is_read_element_by_element_however_it_is_laid_out(indent: int | None, start: str) -> None:
    found = read(start + json.dumps(VALUES, indent=indent, ensure_ascii=False))

    assert values(found) == VALUES
    assert [item.number for item in found if isinstance(item, Item)] == list(range(1, len(VALUES) + 1))
    assert {item.list_number for item in found if isinstance(item, Item)} == {1}


def test_lines_are_read_one_by_one_and_may_be_lists() -> None:
    data = "\n".join(json.dumps(value) for value in VALUES) + "\n"

    assert values(read(data)) == VALUES
    assert values(read("[1]\n[2]\n")) == [[1], [2]]
    assert [item.place for item in read("[1]\n\n[2]\n") if isinstance(item, Item)] == [
        "standard input, line 1",
        "standard input, line 3",
    ]


def test_an_object_in_several_lines_is_one_value() -> None:
    assert values(read(json.dumps({"messages": [1, 2]}, indent=2))) == [{"messages": [1, 2]}]
    assert values(read(json.dumps({"messages": [1, 2]}))) == [{"messages": [1, 2]}]


def test_several_lists_in_a_file_are_told_apart() -> None:
    found = read("[\n1,\n2]\n[\n3]\n")

    assert [(item.value, item.list_number) for item in found if isinstance(item, Item)] == [(1, 1), (2, 1), (3, 2)]


def test_an_empty_file_has_no_values() -> None:
    assert read("") == read(" \n\n") == read("[]") == read("[\n]\n") == []


def test_values_are_the_same_however_the_bytes_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.dumps(VALUES, indent=1, ensure_ascii=False)
    for size in (1, 2, 3, 7, 100):
        monkeypatch.setattr(json_items, "_CHUNK_BYTES", size)
        monkeypatch.setattr(json_items, "_HEAD_BYTES", size)
        assert values(read(data)) == VALUES


def test_a_bad_element_is_a_problem_and_the_rest_goes_on() -> None:
    assert values(read('[\n{"a": 1},\n{"a": tru},\n{"a": 1e999},\n{"a": 2}\n]')) == [
        {"a": 1},
        Problem("standard input, item 2", "is not JSON: Expecting value at character 8"),
        Problem("standard input, item 3", "holds a number that is too large: 1e999"),
        {"a": 2},
    ]
    assert values(read('[\n{"a": 1},\n{"a": ')) == [
        {"a": 1},
        Problem("standard input, item 2", "the file ends within it"),
    ]


def test_elements_and_texts_above_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "MAX_LINE_BYTES", 2**20)
    monkeypatch.setattr(json_items, "_CHUNK_BYTES", 2**14)
    many = "[1,\n" + json.dumps(["x" * 100] * 20_000) + ",\n2]"
    long = "[1,\n" + json.dumps("x" * 2**21) + ",\n2]"

    assert values(read(many)) == [1, Problem("standard input, item 2", "is longer than 1 MB"), 2]
    assert values(read(long)) == [1, Problem("standard input", "holds a text longer than 1 MB; the rest is not read")]
    assert values(read('{\n"a": "' + "x" * 2**21 + '"}')) == [
        Problem("standard input", "the value is larger than 1 MB")
    ]


class Endless(io.RawIOBase):
    """A list of 30 MB that no disk holds."""

    def __init__(self) -> None:
        self._pieces = self._make()
        self._rest = b""

    def _make(self) -> Iterator[bytes]:
        yield b"["
        element = json.dumps({"text": "x" * 1000}).encode()
        for _ in range(30_000):
            yield element + b","
        yield b"1]"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def test_a_long_list_is_read_in_little_memory() -> None:
    tracemalloc.start()
    count = sum(1 for _ in read_items(io.BufferedReader(Endless())))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 30_001
    assert peak < 8 * 2**20


def test_any_bytes_are_read_without_an_error() -> None:
    chance = random.Random(1)
    for _ in range(500):
        data = bytes(chance.choice(b'[]{}",:\\ \n1ae\xff') for _ in range(chance.randrange(60)))
        assert all(isinstance(found, (Item, Problem)) for found in read(data))
