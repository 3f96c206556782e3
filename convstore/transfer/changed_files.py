"""Find which files of a source have changed since they were brought in: by their names, sizes and times.

The session files of a coding agent are looked at one by one: there may be thousands, and one of them changes. Any other
source is one: if anything in it changes, all of it is read again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from convstore.transfer.reading import list_session_files

_FileState: TypeAlias = tuple[str, int, int]
"""A file's name, its size, and when it was changed last."""

_MOST_LOOKS = 12
"""How often a file that is being written is passed over."""


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file or a folder to be read, as it was when it was looked at."""

    path: Path
    state: tuple[_FileState, ...]


class ChangedFiles:
    """Knows which state of each file was brought in.

    Args:
        path: a file or a folder.
        kind: what wrote it.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        self._kind = kind
        self._done: dict[Path, tuple[_FileState, ...]] = {}
        self._seen: dict[Path, tuple[tuple[_FileState, ...], int]] = {}
        """The state of a file that is being written, and how often it was looked at."""

    def find(self) -> Iterator[ChangedFile]:
        """Yield what has changed, or is new.

        Readers of session files know what to do with a line that is being written. For others, a file is passed over as
        long as it changes from one look to the next, for some time.
        """
        sessions = list_session_files(self._path, self._kind)
        for path in [self._path] if sessions is None else sessions:
            state = _read_state(path)
            if not state or state == self._done.get(path):
                continue
            if sessions is None and path in self._done:
                before, looks = self._seen.get(path, ((), 0))
                if state != before and looks < _MOST_LOOKS:
                    self._seen[path] = state, looks + 1
                    continue
            yield ChangedFile(path, state)

    def mark_done(self, file: ChangedFile) -> None:
        """Note that a file was brought in as it was then."""
        self._done[file.path] = file.state
        self._seen.pop(file.path, None)


def _read_state(path: Path) -> tuple[_FileState, ...]:
    """Return the state of a file, or of all files in a folder; nothing if it does not exist.

    A SQLite database may have its latest changes in the log beside it.
    """
    if not path.is_dir():
        return tuple(_stat_files([path, path.with_name(f"{path.name}-wal")]))
    found: list[_FileState] = []
    for folder, _, names in os.walk(path):
        found += _stat_files([Path(folder, name) for name in names])
    return tuple(sorted(found))


def _stat_files(paths: list[Path]) -> Iterator[_FileState]:
    for path in paths:
        try:
            found = path.stat()
        except OSError:  # it was deleted since
            continue
        yield str(path), found.st_size, found.st_mtime_ns
