"""Read the values of a JSON or JSON Lines file one at a time, without holding the file in memory."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from convstore.transfer.checked_json import UnreadableJson, parse_json, parse_line
from convstore.transfer.imported import Problem
from convstore.transfer.source_lines import (
    MAX_LINE_BYTES,
    Source,
    UnreadableSource,
    describe_limit,
    describe_read_error,
    name_source,
    open_source,
    split_lines,
)

_HEAD_BYTES = 2**20
_CHUNK_BYTES = 2**18

# A text, or what structures an array. The last alternative is a text that has not ended yet.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},]|"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Item:
    """A value of a file: a line of it, an element of its list, or all of it."""

    value: Any
    place: str
    number: int
    """Counted from 1."""
    list_number: int | None
    """The number of the list that it is an element of; None: it is no element."""


def read_items(source: Source) -> Iterator[Item | Problem]:
    """Yield the values of a file: of JSON Lines, of one list, or the one that it is.

    A list may be of any size; a value, `MAX_LINE_BYTES`.
    """
    name = name_source(source)
    try:
        with open_source(source) as stream:
            yield from _read(name, stream)
    except UnreadableSource as error:
        yield Problem(name, str(error))
    except Exception as error:
        yield Problem(name, describe_read_error(error))


def _read(name: str, stream: BinaryIO) -> Iterator[Item | Problem]:
    head = b""
    while not head.strip() and (more := stream.readline(_HEAD_BYTES)):
        head += more
    start = head.removeprefix(b"\xef\xbb\xbf").strip()
    is_list, is_whole_line = start.startswith(b"["), head.endswith(b"\n")
    if is_list and (not is_whole_line or (len(start) == 1 or not start.endswith(b"]"))):
        yield from _read_lists(name, head, stream)
    elif start.startswith(b"{") and is_whole_line and (len(start) == 1 or not start.endswith(b"}")):
        yield from _read_document(name, head, stream)
    else:
        yield from _read_lines(name, head, stream)


def _read_document(name: str, head: bytes, stream: BinaryIO) -> Iterator[Item | Problem]:
    """Yield the one value of a file that is written in several lines."""
    data = head + stream.read(MAX_LINE_BYTES)
    if len(data) > MAX_LINE_BYTES:
        yield Problem(name, f"the value is larger than {describe_limit(MAX_LINE_BYTES)}")
        return
    try:
        yield Item(parse_json(data), name, 1, None)
    except UnreadableJson as error:
        yield Problem(name, str(error))


def _read_lines(name: str, head: bytes, stream: BinaryIO) -> Iterator[Item | Problem]:
    lines = split_lines(stream, head)
    first, second = next(lines, None), next(lines, None)
    if first is not None and second is None:
        value = parse_line(name, first)
        if isinstance(value, list):  # a list in one line is all of the file
            for number, element in enumerate(value, 1):
                yield Item(element, f"{name}, item {number}", number, 1)
            return
    for line in itertools.chain((line for line in (first, second) if line is not None), lines):
        value = parse_line(name, line)
        yield value if isinstance(value, Problem) else Item(value, f"{name}, line {line.number}", line.number, None)


class _ListScanner:
    """Finds the elements of lists in a stream of bytes, and does not parse them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._scanned = 0
        self._depth = 0
        self._is_list = False
        self._start = 0
        self._is_too_long = False
        self.list_number = 0

    @property
    def is_open(self) -> bool:
        """True within a list."""
        return self._depth > 0 or bool(self._data.strip())

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """Yield the elements that the bytes complete; None for one that is longer than `MAX_LINE_BYTES`."""
        self._data += chunk
        data = bytes(self._data)
        end = len(data)
        for found in _TOKEN.finditer(data, self._scanned):
            token = found[0]
            if token == b'"':
                end = found.start()
                break
            if token in b"[{":
                if self._depth == 0:
                    self._is_list = token == b"["
                    self._start = found.end() if self._is_list else found.start()
                    self.list_number += 1
                self._depth += 1
            elif token == b",":
                if self._depth == 1 and self._is_list:
                    yield self._take(data, found.start())
                    self._start = found.end()
            elif token in b"]}" and self._depth:
                self._depth -= 1
                if self._depth == 0:
                    last = self._take(data, found.start() if self._is_list else found.end())
                    if last is None or last.strip():
                        yield last
                    self._start = found.end()
        self._scanned = end
        self._forget(data)

    def _take(self, data: bytes, end: int) -> bytes | None:
        if self._is_too_long:
            self._is_too_long = False
            return None
        return data[self._start : end]

    def _forget(self, data: bytes) -> None:
        """Drop what is done with, and the beginning of an element that is too long."""
        if self._depth == 0 or self._scanned - self._start > MAX_LINE_BYTES:
            self._is_too_long = self._is_too_long or self._depth > 0
            self._start = self._scanned
        if len(data) - self._start > MAX_LINE_BYTES + _CHUNK_BYTES:
            raise UnreadableSource(f"holds a text longer than {describe_limit(MAX_LINE_BYTES)}; the rest is not read")
        del self._data[: self._start]
        self._scanned -= self._start
        self._start = 0


def _read_lists(name: str, head: bytes, stream: BinaryIO) -> Iterator[Item | Problem]:
    scanner = _ListScanner()
    number = 0
    chunk = head.removeprefix(b"\xef\xbb\xbf")
    while chunk:
        for element in scanner.feed(chunk):
            number += 1
            place = f"{name}, item {number}"
            if element is None:
                yield Problem(place, f"is longer than {describe_limit(MAX_LINE_BYTES)}")
                continue
            try:
                yield Item(parse_json(element), place, number, scanner.list_number)
            except UnreadableJson as error:
                yield Problem(place, str(error))
        chunk = stream.read(_CHUNK_BYTES)
    if scanner.is_open:
        yield Problem(f"{name}, item {number + 1}", "the file ends within it")
