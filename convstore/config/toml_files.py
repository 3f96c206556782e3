"""Read TOML files, and name the line of a mistake in one."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from convstore.errors import InvalidInput

_MAX_FILE_BYTES = 1024**2
_MAX_SEARCHED_LINES = 2000  # the search for a line parses the text up to each line


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A TOML file that was read."""

    path: Path
    text: str
    values: dict[str, Any]
    mode: int
    """The mode of the file, with its kind, as `os.stat` tells it."""
    uid: int

    def make_error(self, keys: tuple[str, ...], problem: str) -> InvalidInput:
        """Return the error for the value at `keys`; it names the file and the line."""
        line = find_line(self.text, keys)
        where = f"{self.path}, line {line}" if line is not None else str(self.path)
        return InvalidInput(f"{where}: {problem}")

    def check_keys(self, keys: tuple[str, ...], known: tuple[str, ...]) -> Mapping[str, Any]:
        """Return the table at `keys`, which may hold only these keys.

        Raises:
            InvalidInput: it is no table, or has another key.
        """
        table: Any = self.values
        for key in keys:
            table = table[key]
        if not isinstance(table, Mapping):
            raise self.make_error(keys, f"'{format_key(keys)}' must be a table, such as [{format_key(keys)}]")
        for key in table:
            if key not in known:
                raise self.make_error((*keys, key), describe_unknown_key(key, known))
        return table


def describe_unknown_key(key: str, known: tuple[str, ...]) -> str:
    """Return what is wrong with a key, with the key that was probably meant."""
    similar = get_close_matches(key, known, 1)
    advice = f"did you mean '{similar[0]}'?" if similar else f"the keys are {', '.join(known)}"
    return f"unknown key '{key:.80}'; {advice}"


def read_toml(path: Path, *, follows_links: bool = True) -> TomlFile | None:
    """Read a TOML file; return None if it does not exist.

    Args:
        follows_links: whether the file may be a symbolic link.

    Raises:
        InvalidInput: it cannot be read, or is not TOML; the text names the line.
    """
    # A FIFO would be waited for without O_NONBLOCK.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follows_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):  # Python opens no file object of a folder
        os.close(descriptor)
        raise InvalidInput(f"{path} is not a file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise InvalidInput(f"{path} is larger than {_MAX_FILE_BYTES:,} bytes")
    return parse_toml(path, data, mode=found.st_mode, uid=found.st_uid)


def parse_toml(path: Path, data: bytes, *, mode: int = 0o600, uid: int | None = None) -> TomlFile:
    """Return the content of a TOML file.

    Raises:
        InvalidInput: it is not TOML; the text names the line.
    """
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{path}, line {line}: not UTF-8") from None
    text = text.replace("\r\n", "\n")
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also if a number has 5,000 digits
        raise _explain(path, text, str(error)) from None
    return TomlFile(path, text, values, mode, os.geteuid() if uid is None else uid)


def _explain(path: Path, text: str, reason: str) -> InvalidInput:
    # tomllib's own texts: "… (at line 3, column 5)", "… (at end of document)"
    found = re.fullmatch(r"(.*?) \(at (?:line (\d+), column \d+|end of document)\)", reason, re.DOTALL)
    if found is None:
        return InvalidInput(f"{path}: not TOML: {reason:.200}")
    line = found[2] or str(max(1, len(text.splitlines())))
    return InvalidInput(f"{path}, line {line}: not TOML: {found[1]:.200}")


def find_line(text: str, keys: tuple[str, ...]) -> int | None:
    """Return the line where a TOML text sets the value at `keys`; None if it does not."""
    lines = text.split("\n")
    if len(lines) > _MAX_SEARCHED_LINES:
        return None
    begin = 1  # of the statement that the next lines complete
    for count in range(1, len(lines) + 1):
        try:
            values = tomllib.loads("\n".join(lines[:count]))
        except ValueError:  # in the middle of a value
            continue
        if _has(values, keys):
            return next((number for number in range(begin, count + 1) if _says(lines[number - 1])), count)
        begin = count + 1
    return None


def _says(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _has(values: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True


def format_key(keys: tuple[str, ...]) -> str:
    """Return a dotted key as TOML writes it."""
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"' for key in keys)
