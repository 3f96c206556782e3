"""Open a file of any known kind, and read its conversations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from convstore.errors import InvalidInput
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.recognition import SNIFFED_BYTES, recognise_kind
from convstore.transfer.source_lines import prepend

Conversations = Iterator[ImportedConversation | Problem]

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
}

READABLE_KINDS = tuple(_READERS)
"""The kinds of files that can be read."""


@contextmanager
def open_conversations(
    source: str | os.PathLike[str] | IO[bytes], kind: str | None = None
) -> Iterator[tuple[str, Conversations]]:
    """Open a file, a folder or a stream; yield its kind and its conversations.

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
    given = path if path is not None else stream
    if kind in _EXPORTS:
        from convstore.transfer.export_files import open_export_files

        with open_export_files(given, path.name if path is not None else "input") as files:
            yield kind, _find_reader(kind)(files)
    else:
        yield kind, _find_reader(kind)(given)


def _find_reader(kind: str) -> Callable[[Any], Conversations]:
    """Return the reader of a kind; its module is imported here, because a command needs one of them."""
    name = _READERS[kind]
    reader: Callable[[Any], Conversations] = getattr(import_module(f"convstore.transfer.{name}"), f"read_{name}")
    return reader
