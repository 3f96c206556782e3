"""Journals: files with one JSON value in each line, which outlive the process that writes them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """A file to which one process writes. After `write` returned, `kill -9` does not lose the entry."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._writing = threading.Lock()

    def write(self, entry: Entry) -> None:
        # One write without a buffer: the system has the line, so only its own crash could lose it.
        with self._writing:
            self._file.write(json.dumps(entry).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


class JournalReader:
    """Reads all journals of a folder, each time from where the last reading ended."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self._folder = folder
        self._pattern = pattern
        self._read: dict[Path, int] = {}

    def read_new(self) -> Iterator[Entry]:
        """Yield the entries that were written since the last call."""
        for path in sorted(self._folder.glob(self._pattern)):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]  # a writer that was killed may have left a part of a line
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                yield json.loads(line)
