"""Where an export goes: a stream, a file, or a file in a folder for each conversation."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO

from convstore.errors import InvalidInput

_MOST_NAME_BYTES = 150


@contextmanager
def open_new_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears when it is whole, and replaces the one that was there.

    Only its owner can read it. What is no file (a pipe, a device) is written as it is.

    Raises:
        InvalidInput: the file cannot be written.
    """
    path = path.resolve()  # the file that a link names
    if path.exists() and not path.is_file():
        try:
            with path.open("wb") as stream:
                yield stream
        except OSError as error:
            raise make_unwritable(path, error) from None
        return
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
    """Return the name of a conversation's file: its id, or what a file's name can have of it and a digest."""
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in conversation_id).lstrip(".")
    short = safe.encode()[:_MOST_NAME_BYTES].decode(errors="ignore")
    if short != conversation_id:
        short = f"{short}-{blake2b(conversation_id.encode(), digest_size=6).hexdigest()}"
    return f"{short}{ending}"
