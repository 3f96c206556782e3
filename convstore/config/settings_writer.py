"""Change the user's `config.toml`; its comments and its order are kept."""

from __future__ import annotations

import fcntl
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convstore.config.settings_file import (
    PROFILE_KEYS,
    RENDERING_KEYS,
    TEXT_KEYS,
    UserSettings,
    check_user_settings,
)
from convstore.config.toml_files import describe_unknown_key, parse_toml, read_toml
from convstore.config.user_folders import write_private_file
from convstore.errors import InvalidInput

_TOP_KEYS = (*TEXT_KEYS, "rendering.KEY", "profiles.NAME.KEY", "defaults.COMMAND.OPTION")


def parse_key(text: str) -> tuple[str, ...]:
    """Return the parts of a dotted KEY, such as `profiles.work.model`.

    A part with a space is in quotes: `defaults."db verify".all-terms`.

    Raises:
        InvalidInput: the file can have no such key.
    """
    try:
        keys = tuple(_walk(tomllib.loads(f"{text} = 0"))) if "\n" not in text and "#" not in text else ()
    except ValueError:
        keys = ()
    is_known = {
        1: keys[:1] and keys[0] in TEXT_KEYS,
        2: keys[:1] == ("rendering",) and keys[1] in RENDERING_KEYS if len(keys) == 2 else False,
        3: len(keys) == 3 and (keys[0] == "defaults" or (keys[0] == "profiles" and keys[2] in PROFILE_KEYS)),
    }.get(len(keys), False)
    if not is_known:
        known: tuple[str, ...] = _TOP_KEYS
        if keys[:1] == ("rendering",):
            known = tuple(f"rendering.{key}" for key in RENDERING_KEYS)
        elif keys[:1] == ("profiles",) and len(keys) > 1:
            known = tuple(f"profiles.{keys[1]}.{key}" for key in PROFILE_KEYS)
        raise InvalidInput(describe_unknown_key(text, known))
    return keys


def _walk(values: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield key
        if isinstance(value, dict):
            yield from _walk(value)


def parse_value(keys: tuple[str, ...], text: str) -> Any:
    """Return the value that a text on the command line means for a key."""
    if keys[0] == "defaults" or keys in (("rendering", "markdown"), ("rendering", "colour")):
        try:
            found = tomllib.loads(f"value = {text}")
        except ValueError:
            return text
        value = found["value"] if set(found) == {"value"} else text
        return value if isinstance(value, (bool, int, float, str, list)) else text
    return text


def change_setting(path: Path, keys: tuple[str, ...], value: Any) -> UserSettings:
    """Set the value at `keys`, or remove it if `value` is None.

    Return what the file sets then.

    Raises:
        InvalidInput: the file has a mistake, the value is wrong, or no value can be removed; nothing was changed.
    """
    with _lock(path.parent):
        file = read_toml(path)
        text = _change_text(path, file.text if file is not None else "", keys, value)
        settings = check_user_settings(path, parse_toml(path, text.encode()))
        write_private_file(path, text)
    return settings


def replace_settings(path: Path, text: str) -> UserSettings:
    """Replace the whole file; return what it sets.

    Raises:
        InvalidInput: the text has a mistake, and names its line; nothing was changed.
    """
    settings = check_user_settings(path, parse_toml(path, text.encode()))
    with _lock(path.parent):
        write_private_file(path, text)
    return settings


def _change_text(path: Path, text: str, keys: tuple[str, ...], value: Any) -> str:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    if text:
        parse_toml(path, text.encode())  # its errors name the line
    try:
        document = tomlkit.parse(text)
        table: Any = document
        for depth, key in enumerate(keys[:-1]):
            if key not in table:
                if value is None:
                    raise _make_missing(path, keys)
                table[key] = tomlkit.table(is_super_table=depth < len(keys) - 2)
            table = table[key]
        if value is not None:
            table[keys[-1]] = value
        elif keys[-1] in table:
            del table[keys[-1]]
        else:
            raise _make_missing(path, keys)
        changed = tomlkit.dumps(document)
    except (TOMLKitError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path}: this cannot be changed here ({error:.200}); use `convstore config edit`") from None
    _check_change(path, text, changed, keys, value)
    return changed


def _check_change(path: Path, before: str, after: str, keys: tuple[str, ...], value: Any) -> None:
    """Check that exactly one value has changed, whatever the library made of the text."""
    expected = tomllib.loads(before)
    table = expected
    for key in keys[:-1]:
        table = table.setdefault(key, {})
    if value is None:
        del table[keys[-1]]
    else:
        table[keys[-1]] = value
    if tomllib.loads(after) != expected:
        raise InvalidInput(f"{path}: this cannot be changed here; use `convstore config edit`")


def _make_missing(path: Path, keys: tuple[str, ...]) -> InvalidInput:
    return InvalidInput(f"{path} does not set '{'.'.join(keys)}'")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process at a time change files of a folder."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"{str(folder)!r} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
