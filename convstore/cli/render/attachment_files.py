"""Write the attachments of messages to files, for `show --save-attachments`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.render.attachment_labels import Attachment, find_attachments
from convstore.cli.render.output_streams import write_answer, write_json, write_note

if TYPE_CHECKING:
    from convstore.values.results import MessageRecord


@dataclass(frozen=True, slots=True)
class _SavedFile:
    """An attachment that was written to a file."""

    position: int
    number: int
    """1, 2, 3 … in its message."""
    attachment: Attachment
    path: Path

    @property
    def json_form(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "number": self.number,
            "media_type": self.attachment.media_type,
            "filename": self.attachment.name,
            "bytes": len(self.attachment.data),
            "path": str(self.path),
        }


def save_attachments(records: Sequence[MessageRecord], folder: Path, *, as_json: bool) -> None:
    """Write the attachments of messages into a folder, and print their file paths.

    The name of a file is `<position>-<number>.<extension>`. If a file with the same bytes exists already, it stays as
    it is.

    Raises:
        click.UsageError: a file exists with other content, or the folder cannot be written.
    """
    saved = _write_all(records, folder)
    if as_json:
        write_json([file.json_form for file in saved], indent=2)
        return
    for file in saved:
        write_answer(str(file.path))
    if not saved:
        write_note("these messages have no attachments")


def _write_all(records: Sequence[MessageRecord], folder: Path) -> list[_SavedFile]:
    saved = [
        _SavedFile(record.position, number, attachment, folder / f"{record.position}-{number}.{attachment.extension}")
        for record in records
        for number, attachment in enumerate(find_attachments(record.message), start=1)
    ]
    try:
        if saved:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in saved:
            _write_file(file.path, file.attachment.data)
    except OSError as error:
        raise click.UsageError(f"'{error.filename or folder}' cannot be written: {error.strerror}.") from None
    return saved


def _write_file(path: Path, data: bytes) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.is_symlink() or not path.is_file() or path.read_bytes() != data:
            raise click.UsageError(f"'{path}' exists already with other content; name another folder.") from None
        return
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
    except BaseException:
        path.unlink(missing_ok=True)  # an incomplete file would make the next try fail
        raise
