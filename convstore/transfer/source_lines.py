"""Read the lines of a file of another program, one at a time."""

from __future__ import annotations

import gzip
import importlib
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from convstore.transfer.imported import Problem

Source: TypeAlias = "str | os.PathLike[str] | BinaryIO"
"""A file or a folder by its path, or an open binary stream."""

MAX_LINE_BYTES = 64 * 2**20
SQLITE_MAGIC = b"SQLite format 3\0"

INCOMPLETE_LINE = "the last line is not complete yet"
"""The note for a file that ends within a line."""

_SKIP_BYTES = 2**20
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")  # the standard library's since Python 3.14, and its backport

# What the standard library's decompressors raise if the data is damaged or cut. zstd's error is its own class.
READ_ERRORS = (OSError, EOFError, zlib.error)


class UnreadableSource(Exception):
    """The file cannot be read at all; the text says why."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file."""

    number: int
    """1 for the first."""
    content: bytes | None
    """Without the line's end; None: it is too long."""
    is_complete: bool
    """False if the file ends in the line: a program may still be writing it."""


def name_source(source: Source) -> str:
    """Return the name of a source, for a `Problem`'s place."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) and name else "standard input"


@contextmanager
def open_source(source: Source) -> Iterator[BinaryIO]:
    """Open a source; a file that gzip or Zstandard compressed is decompressed on the way.

    Raises:
        UnreadableSource: the file cannot be opened, or no Zstandard module is installed.
    """
    try:
        stream = open_path(source) if isinstance(source, (str, os.PathLike)) else source
    except OSError as error:
        raise UnreadableSource(f"cannot be opened: {error.strerror or error}") from None
    try:
        yield _decompress(stream)
    finally:
        if stream is not source:
            stream.close()


class _Prepended(io.RawIOBase):
    """A stream that begins with bytes that were read from it before."""

    def __init__(self, start: bytes, stream: BinaryIO) -> None:
        self._start = start
        self._stream = stream
        self.name = name_source(stream)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._start[: len(buffer)] or self._stream.read(len(buffer))
        self._start = self._start[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def prepend(start: bytes, stream: BinaryIO) -> BinaryIO:
    """Return a stream with the bytes that were read from it, to recognise its kind, before it again."""
    return io.BufferedReader(_Prepended(start, stream))


def open_path(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file; only a regular file, because a pipe would wait for its writer."""
    found = Path(path)
    if found.exists() and not found.is_file():
        raise OSError("it is not a file")
    return found.open("rb")


def _decompress(stream: BinaryIO) -> BinaryIO:
    buffered = cast(io.BufferedReader, stream if hasattr(stream, "peek") else io.BufferedReader(cast(Any, stream)))
    try:
        start = buffered.peek(4)[:4]
    except READ_ERRORS as error:
        raise UnreadableSource(f"cannot be read: {error}") from None
    if start.startswith(_GZIP_MAGIC):
        return io.BufferedReader(gzip.GzipFile(fileobj=buffered))
    if start == _ZSTD_MAGIC:
        return _open_zstd(buffered)
    return buffered


def _open_zstd(stream: BinaryIO) -> BinaryIO:
    for name in _ZSTD_MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return io.BufferedReader(module.ZstdFile(stream))
    raise UnreadableSource("is compressed with Zstandard; install `backports.zstd` to read it")


def read_lines(source: Source, most: int = MAX_LINE_BYTES) -> Iterator[Line | Problem]:
    """Yield the lines of a file that are not blank.

    Yield a `Problem` at the end if the rest of the file cannot be read. No more than one line is held in memory.

    Args:
        most: the longest line, in bytes.
    """
    try:
        with open_source(source) as stream:
            yield from split_lines(stream, most=most)
    except UnreadableSource as error:
        yield Problem(name_source(source), str(error))
    except Exception as error:
        yield Problem(name_source(source), describe_read_error(error))


def describe_read_error(error: Exception) -> str:
    """Return why the rest of a file cannot be read; raise the error again if it is another one."""
    # Zstandard's error has a class of its own in each module.
    if not isinstance(error, READ_ERRORS) and type(error).__name__ != "ZstdError":
        raise error
    return f"the rest cannot be read: {' '.join(str(error).split()) or type(error).__name__}"


def split_lines(stream: BinaryIO, head: bytes = b"", most: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Yield the lines of a stream that are not blank; `head` was read from it before, to the end of a line or not."""
    number = 0
    while True:
        content = head
        head = b""
        if not content.endswith(b"\n"):
            content += stream.readline(most + 2)
        if not content:
            return
        number += 1
        is_complete = content.endswith(b"\n")
        content = content.rstrip(b"\r\n")
        if len(content) > most:
            del content
            yield Line(number, None, is_complete or _skip_line(stream))
            continue
        if number == 1:
            content = content.removeprefix(b"\xef\xbb\xbf")
        if content.strip():
            yield Line(number, content, is_complete)


def _skip_line(stream: BinaryIO) -> bool:
    while piece := stream.readline(_SKIP_BYTES):
        if piece.endswith(b"\n"):
            return True
    return False


def describe_limit(size: int) -> str:
    """Return a limit in MB as text: "64 MB"."""
    return f"{size // 2**20} MB"
