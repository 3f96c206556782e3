"""Open a file of any known kind, and read its conversations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from convstore.errors import InvalidInput
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.read_progress import ReadProgress
from convstore.transfer.recognition import SNIFFED_BYTES, is_database, recognise_kind
from convstore.transfer.source_lines import prepend

Conversations = Iterator[ImportedConversation | Problem]

OWN_KIND = "convstore"
"""Our own export. Its conversations are `OwnConversation`s, which have more than those of other programs."""

_EXPORTS = {
    "chatgpt": "chatgpt_export",
    "claude": "claude_export",
    "open-webui": "open_webui_export",
    "librechat": "librechat_export",
}
"""The modules that read exports, which may be a zip, a folder or a file."""

_READERS = {
    **_EXPORTS,
    "llm": "llm_logs",
    "claude-code": "claude_code_sessions",
    "codex": "codex_sessions",
    "aichat": "aichat_sessions",
    "mods": "mods_conversations",
    "sharegpt": "sharegpt",
    "fine-tuning": "fine_tuning",
    "messages": "plain_messages",
    "markdown": "markdown_transcript",
    OWN_KIND: "own_export",
}

_STREAMED = frozenset({"claude-code", "codex", "sharegpt", "fine-tuning", "messages", "markdown", OWN_KIND})
"""The kinds with readers that need no path of a file, but only a stream with its name."""

READABLE_KINDS = tuple(_READERS)
"""The kinds of files that can be read."""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file that was opened: what is in it, and how much of it was read."""

    kind: str
    conversations: Conversations
    progress: ReadProgress


@contextmanager
def open_conversations(source: str | os.PathLike[str] | IO[bytes], kind: str | None = None) -> Iterator[OpenedFile]:
    """Open a file, a folder or a stream, and yield what is in it.

    Args:
        source: a path, or a binary stream.
        kind: one of `READABLE_KINDS`; None: it is recognised by what is in the file.

    Raises:
        InvalidInput: there is no such file, its kind is not recognised, or this kind cannot be read.
    """
    path = Path(os.fspath(source)) if isinstance(source, str | os.PathLike) else None
    if path is not None and not path.exists():
        raise InvalidInput(f"{path}: no such file or folder")
    stream: Any = source
    if kind is None:
        if path is not None:
            kind = recognise_kind(path)
        else:
            beginning = stream.read(SNIFFED_BYTES)
            kind, stream = recognise_kind(beginning), prepend(beginning, stream)
    if kind not in READABLE_KINDS:
        raise InvalidInput(f"files of the kind {kind!r:.80} cannot be read; these can: {', '.join(READABLE_KINDS)}")
    if kind == OWN_KIND and path is not None and is_database(path):
        raise InvalidInput(f"{path}: this is a database of convstore; `convstore db copy` copies it")
    given = path if path is not None else stream
    if kind in _EXPORTS:
        from convstore.transfer.export_files import open_export_files

        with open_export_files(given, path.name if path is not None else "input") as files:
            yield OpenedFile(kind, _find_reader(kind)(files), files.progress)
    elif path is not None and kind in _STREAMED and path.is_file() and os.access(path, os.R_OK):
        with open(os.fspath(path), "rb") as file:  # noqa: PTH123 (a Path's stream would not have its name as a text)
            progress = ReadProgress(os.fstat(file.fileno()).st_size, stream=file.raw)
            yield OpenedFile(kind, _find_reader(kind)(file), progress)
    else:
        yield OpenedFile(kind, _find_reader(kind)(given), ReadProgress())


def list_session_files(path: Path, kind: str) -> list[Path] | None:
    """Return the files in a folder that can be read apart; None: the source can be read only as a whole."""
    if kind not in ("claude-code", "codex") or not path.is_dir():
        return None
    list_files: Callable[[Path], list[Path]] = _import_reader(kind).list_session_files
    return list_files(path)


def _find_reader(kind: str) -> Callable[[Any], Conversations]:
    reader: Callable[[Any], Conversations] = getattr(_import_reader(kind), f"read_{_READERS[kind]}")
    return reader


def _import_reader(kind: str) -> Any:
    """Return the module that reads a kind; it is imported here, because a command needs one of them."""
    return import_module(f"convstore.transfer.{_READERS[kind]}")
