"""Where an export goes: a stream, a file, or a file in a folder for each conversation."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from convstore.errors import InvalidInput


@contextmanager
def open_new_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears when it is whole, and replaces the one that was there.

    Only its owner can read it.

    Raises:
        InvalidInput: the file cannot be written.
    """
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    except OSError as error:
        raise make_unwritable(path, error) from None
    try:
        with os.fdopen(number, "wb") as stream:
            yield stream
        Path(name).replace(path)
    except OSError as error:
        raise make_unwritable(path, error) from None
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()


def make_unwritable(path: Path, error: OSError) -> InvalidInput:
    """Return the error for a file that cannot be written."""
    return InvalidInput(f"{os.fspath(path)}: cannot be written: {error.strerror or error}")


def is_folder(target: object) -> bool:
    """Return True if a target is a folder, or names one by a slash at its end."""
    if not isinstance(target, str | os.PathLike):
        return False
    return os.fspath(target).endswith(os.sep) or Path(target).is_dir()


def name_file(conversation_id: str, ending: str) -> str:
    """Return the name of a conversation's file: its id, with signs that a file's name may not have as `_`."""
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in conversation_id)
    return f"{safe.lstrip('.')[:200] or '_'}{ending}"
