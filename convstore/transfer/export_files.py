"""Open a zip, a folder or a single file as named streams, within limits.

Nothing is written to the disk, so a hostile name cannot escape a folder. It is refused by name all the same, because
an honest export has none. The numbers of a zip are the declared ones: `zipfile` never reads more than these.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO

from convstore.transfer.imported import Problem
from convstore.transfer.read_progress import ReadProgress

MAX_FILES = 200_000
"""Files in a zip or a folder; a zip or a folder with more is refused."""
MAX_ZIP_TABLE_BYTES = 64 * 2**20
"""Size of a zip's table of contents, which is read as a whole."""
MAX_TOTAL_BYTES = 64 * 2**30
"""Sum of the sizes of a zip's files."""
MAX_COMPRESSION_RATIO = 400
"""How many times larger than its compressed form a file may be. Text of conversations has 4 to 20."""
MIN_RATIO_BYTES = 10 * 2**20
"""Smaller files may have any ratio."""
MAX_NAMED_PROBLEMS = 20
"""Files of one zip or folder that are refused by name; the others are counted."""

READ_FAULTS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # an encrypted file; NotImplementedError, an unknown compression
    LookupError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What `zipfile` and the disk raise for files that cannot be read."""

_IGNORED_NAME = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$|Thumbs\.db$)")
_DRIVE = re.compile(r"[A-Za-z]:")
_ZIP_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, slots=True)
class ExportFile:
    """A file of an export."""

    name: str
    """Its path in the zip or folder, with `/` between the parts."""
    size: int | None
    """Its size in bytes; None: unknown, because it is a pipe."""
    open: Callable[[], AbstractContextManager[IO[bytes]]]

    @property
    def base_name(self) -> str:
        """The last part of the name."""
        return PurePosixPath(self.name).name


class ExportFiles(AbstractContextManager["ExportFiles"]):
    """The files of an export, by name."""

    def __init__(
        self, files: Mapping[str, ExportFile], problems: tuple[Problem, ...], *, kind: str, resources: ExitStack
    ) -> None:
        self.files = files
        self.problems = problems
        """What was refused; the other files can be read."""
        self.kind = kind
        """`zip`, `folder` or `file`."""
        self.progress = ReadProgress()
        self._resources = resources

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def read_bytes(self, name: str, limit: int) -> bytes | None:
        """Return the content of a file, or None if it is too large or unreadable."""
        file = self.files[name]
        if file.size is not None and file.size > limit:
            return None
        try:
            with file.open() as stream:
                data = stream.read(limit + 1)
        except READ_FAULTS:
            return None
        return data if len(data) <= limit else None

    def select_json(self, pattern: re.Pattern[str]) -> list[ExportFile]:
        """Return the files with a base name that fits, in order of their names.

        If the export is a single file, it always fits.
        """
        if self.kind == "file":
            return list(self.files.values())
        return sorted(
            (file for file in self.files.values() if pattern.fullmatch(file.base_name)), key=lambda file: file.name
        )


def open_export_files(source: str | Path | IO[bytes], name: str = "input") -> ExportFiles:
    """Open a zip, a folder, a single file or a stream.

    It raises nothing for a fault of the source: `problems` has what was refused.

    Args:
        source: a path, or a binary stream. A zip needs a stream that can seek.
        name: the name of a stream, for problems.
    """
    resources = ExitStack()
    try:
        if isinstance(source, (str, Path)):
            return _open_path(Path(source), resources)
        return _open_stream(source, name, resources)
    except READ_FAULTS as error:
        resources.close()
        place = name if not isinstance(source, (str, Path)) else Path(source).name
        return _refuse(place, f"it cannot be read: {describe_fault(error)}", resources)


def describe_fault(error: BaseException) -> str:
    """Return the reason of a fault in one line, without a stop."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(text.split())[:200].rstrip(".")
    return line or type(error).__name__


def _refuse(place: str, reason: str, resources: ExitStack, kind: str = "file") -> ExportFiles:
    return ExportFiles({}, (Problem(place, reason),), kind=kind, resources=resources)


def _open_path(path: Path, resources: ExitStack) -> ExportFiles:
    if path.is_dir():
        return _open_folder(path, resources)
    with path.open("rb") as stream:
        beginning = stream.read(4)
    if beginning in _ZIP_BEGINNINGS or path.suffix.lower() == ".zip":
        return _open_zip(resources.enter_context(path.open("rb")), path.name, resources)
    file = ExportFile(path.name, path.stat().st_size, lambda: path.open("rb"))
    return ExportFiles({file.name: file}, (), kind="file", resources=resources)


def _open_stream(stream: IO[bytes], name: str, resources: ExitStack) -> ExportFiles:
    if stream.seekable():
        start = stream.tell()
        beginning = stream.read(4)
        stream.seek(start)
        if beginning in _ZIP_BEGINNINGS:
            return _open_zip(stream, name, resources)
    elif isinstance(stream, io.BufferedReader) and stream.peek(4)[:4] in _ZIP_BEGINNINGS:
        return _refuse(name, "a zip cannot be read from a pipe; give its path", resources)
    file = ExportFile(name, None, lambda: nullcontext(stream))  # the caller closes it
    return ExportFiles({name: file}, (), kind="file", resources=resources)


def _open_folder(root: Path, resources: ExitStack) -> ExportFiles:
    files: dict[str, ExportFile] = {}
    problems: list[Problem] = []
    inside = root.resolve()
    for path in _walk(root):
        name = path.relative_to(root).as_posix()
        if _IGNORED_NAME.search(name):
            continue
        if len(files) == MAX_FILES:
            return _refuse(root.name, f"the folder has more than {MAX_FILES:,} files", resources, "folder")
        if not path.resolve().is_relative_to(inside):
            problems.append(Problem(name, "it is a link to a file outside of the folder"))
            continue
        if path.is_file():
            files[name] = ExportFile(name, path.stat().st_size, lambda path=path: path.open("rb"))  # type: ignore[misc]
    return ExportFiles(files, _shorten(problems, root.name), kind="folder", resources=resources)


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            yield Path(folder, name)


def _open_zip(stream: IO[bytes], place: str, resources: ExitStack) -> ExportFiles:
    if _measure_zip_table(stream) > MAX_ZIP_TABLE_BYTES:
        reason = f"the zip's table of contents is larger than {MAX_ZIP_TABLE_BYTES // 2**20} MiB"
        return _refuse(place, reason, resources, "zip")
    try:
        archive = resources.enter_context(zipfile.ZipFile(stream))
    except READ_FAULTS as error:
        return _refuse(place, f"the zip is damaged: {describe_fault(error)}", resources, "zip")
    entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _IGNORED_NAME.search(entry.filename)]
    if len(entries) > MAX_FILES:
        return _refuse(place, f"the zip has more than {MAX_FILES:,} files", resources, "zip")
    if sum(entry.file_size for entry in entries) > MAX_TOTAL_BYTES:
        reason = f"the zip's files are larger than {MAX_TOTAL_BYTES // 2**30} GiB together"
        return _refuse(place, reason, resources, "zip")
    files: dict[str, ExportFile] = {}
    problems: list[Problem] = []
    for entry in entries:
        fault = find_entry_fault(entry)
        if fault is not None:
            problems.append(Problem(f"{entry.filename!r:.200}", fault))
            continue
        name = entry.filename.replace("\\", "/")
        files[name] = ExportFile(name, entry.file_size, lambda entry=entry: archive.open(entry))  # type: ignore[misc]
    return ExportFiles(files, _shorten(problems, place), kind="zip", resources=resources)


def find_entry_fault(entry: zipfile.ZipInfo) -> str | None:
    """Return why a file of a zip is refused, or None if it may be read."""
    name = entry.filename.replace("\\", "/")
    if name.startswith("/") or _DRIVE.match(name):
        return "the name is an absolute path"
    if ".." in name.split("/"):
        return 'the name leads out of the folder ("..")'
    if entry.flag_bits & 0x1:
        return "it is encrypted"
    if entry.compress_type not in _COMPRESSIONS:
        return "its compression is not deflate"
    if entry.file_size > max(MIN_RATIO_BYTES, entry.compress_size * MAX_COMPRESSION_RATIO):
        return f"it is more than {MAX_COMPRESSION_RATIO} times larger than its compressed form"
    return None


def _measure_zip_table(stream: IO[bytes]) -> int:
    """Return the declared size of a zip's table of contents; 0: it has no table.

    `zipfile` reads the table into memory before it tells how large it is. The two records that declare it are in the
    last 64 KiB (APPNOTE.TXT, 4.3.14 and 4.3.16).
    """
    stream.seek(0, os.SEEK_END)
    stream.seek(max(0, stream.tell() - 66_000))
    tail = stream.read()
    stream.seek(0)
    sizes = [0]
    for signature, offset, form in ((b"PK\x05\x06", 12, "<L"), (b"PK\x06\x06", 40, "<Q")):
        found = tail.rfind(signature)
        if 0 <= found <= len(tail) - offset - struct.calcsize(form):
            sizes.append(struct.unpack_from(form, tail, found + offset)[0])
    return max((size for size in sizes if size != 0xFFFFFFFF), default=0)


def _shorten(problems: list[Problem], place: str) -> tuple[Problem, ...]:
    if len(problems) <= MAX_NAMED_PROBLEMS:
        return tuple(problems)
    more = len(problems) - MAX_NAMED_PROBLEMS
    return (*problems[:MAX_NAMED_PROBLEMS], Problem(place, f"{more:,} more files were refused"))
