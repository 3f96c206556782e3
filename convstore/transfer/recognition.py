"""Recognise which program wrote a file, by what is in it."""

from __future__ import annotations

import io
import itertools
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from convstore.errors import InvalidInput
from convstore.transfer.foreign_database import DATABASE_ERRORS, ForeignDatabase, open_read_only
from convstore.transfer.json_kinds import find_json_kind
from convstore.transfer.markdown_marks import is_own_markdown
from convstore.transfer.source_lines import (
    SQLITE_MAGIC,
    UnreadableSource,
    describe_read_error,
    name_source,
    open_source,
)

KINDS = (
    "convstore",
    "chatgpt",
    "claude",
    "llm",
    "claude-code",
    "codex",
    "open-webui",
    "librechat",
    "sharegpt",
    "fine-tuning",
    "messages",
    "markdown",
    "aichat",
    "mods",
)
"""What `recognise_kind` can return."""

SNIFFED_BYTES = 2**16
"""How much of a file it looks at."""

_MOST_FILES = 1000  # of a folder or an archive
_ZIP_MAGIC = b"PK\x03\x04"
_ENDINGS = frozenset({".json", ".jsonl", ".zst", ".gz", ".db", ".md", ".zip", ".yaml", ".gob"})
_AICHAT_MODEL = re.compile(rb"\Amodel: \S")  # the first field that a session of aichat has
_AICHAT_MESSAGES = re.compile(rb"^(compressed_)?messages:", re.MULTILINE)
_GOB_FIELDS = (b"\x04Role\x01\x0c", b"\x07Content\x01\x0c")  # in the definition of a message of mods: texts
_EXPORT_NAME = re.compile(r"(?:^|/)conversations(?:-\d+)?\.json$")


def recognise_kind(source: str | os.PathLike[str] | bytes) -> str:
    """Return the kind of a file, a folder or the first bytes of a stream: one of `KINDS`.

    Args:
        source: a path, or the first `SNIFFED_BYTES` of a stream.

    Raises:
        InvalidInput: no kind fits, or the file cannot be read.
    """
    name = "the input" if isinstance(source, bytes) else repr(name_source(source))
    try:
        found = _recognise_bytes(source) if isinstance(source, bytes) else _recognise_path(Path(source))
    except UnreadableSource as error:
        raise InvalidInput(f"{name} {error}") from None
    if found is None:
        raise InvalidInput(f"{name} is of no kind that can be imported ({', '.join(KINDS)})")
    return found


def _recognise_path(path: Path) -> str | None:
    if path.is_dir():
        return _recognise_folder(path)
    with open_source(path) as stream:
        start = _read_start(stream)
    if start.startswith(_ZIP_MAGIC):
        return _recognise_archive(path)
    if start.startswith(SQLITE_MAGIC):
        return _recognise_database(path)
    return _recognise_text(start)


def _recognise_bytes(data: bytes) -> str | None:
    with open_source(io.BytesIO(data)) as stream:
        start = _read_start(stream)
    if start.startswith((SQLITE_MAGIC, _ZIP_MAGIC)):
        raise UnreadableSource("is a database or an archive; give the file itself, not a stream")
    return _recognise_text(start)


def _read_start(stream: BinaryIO) -> bytes:
    start = b""
    try:
        while len(start) < SNIFFED_BYTES and (more := stream.read1(SNIFFED_BYTES - len(start))):  # type: ignore[attr-defined]
            start += more
    except Exception as error:
        reason = describe_read_error(error)
        if not start:  # the first bytes of a compressed stream end too early for a decompressor
            raise UnreadableSource(reason) from None
    return start


def _recognise_text(start: bytes) -> str | None:
    if is_own_markdown(start):
        return "markdown"
    if _AICHAT_MODEL.search(start) and _AICHAT_MESSAGES.search(start):
        return "aichat"
    if all(field in start for field in _GOB_FIELDS):
        return "mods"
    return find_json_kind(start)


def is_database(path: Path) -> bool:
    """Return True if a file is a SQLite database."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def _recognise_database(path: Path) -> str | None:
    connection = open_read_only(path)
    try:
        database = ForeignDatabase(connection)
        if database.has("convstore_conversations") or database.has("convstore_messages"):
            return "convstore"
        if database.has("responses", "conversation_id") or (database.has("threads") and database.has("turns")):
            return "llm"
        if database.has("threads", "rollout_path"):
            return "codex"
        return (
            "mods" if database.has("conversations", "title") and database.has("conversations", "updated_at") else None
        )
    except DATABASE_ERRORS:
        raise UnreadableSource("is a damaged SQLite database") from None
    finally:
        connection.close()


def _recognise_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in itertools.islice(archive.infolist(), _MOST_FILES)]
            # An export's conversations are in one file, or in several; others have a file for each.
            names.sort(key=lambda name: (_EXPORT_NAME.search(name) is None, name))
            for name in names:
                if name.endswith((".json", ".jsonl")):
                    with archive.open(name) as stream:
                        found = _recognise_text(stream.read(SNIFFED_BYTES))
                    if found is not None:
                        return found
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise UnreadableSource(f"is an archive that cannot be read: {' '.join(str(error).split())}") from None
    except Exception as error:  # a decompressor's
        raise UnreadableSource(describe_read_error(error)) from None
    return None


def _recognise_folder(folder: Path) -> str | None:
    for path in itertools.islice(_list_files(folder), _MOST_FILES):
        try:
            found = _recognise_path(path)
        except UnreadableSource:
            continue
        if found is not None:
            return found
    return None


def _list_files(folder: Path) -> Iterator[Path]:
    """Yield the files that may hold conversations; first those that exports are named for."""
    names = [folder / name for name in ("conversations.json", "logs.db")]
    yield from (path for path in names if path.is_file())
    for path in folder.rglob("*"):
        if path.suffix in _ENDINGS and path.is_file():
            yield path
