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
from convstore.config.toml_files import TomlFile, describe_unknown_key, parse_toml, read_toml
from convstore.config.user_folders import write_private_file
from convstore.errors import InvalidInput

_HOW_TO_CORRECT = "`convstore config edit` opens the file"
_TOP_KEYS = (*TEXT_KEYS, "rendering.KEY", "profiles.NAME.KEY", "defaults.COMMAND.OPTION")


def parse_key(text: str) -> tuple[str, ...]:
    """Return the parts of a dotted KEY, such as `profiles.work.model`.

    A part with a space is in quotes: `defaults."db verify".all-terms`.

    Raises:
        InvalidInput: the file can have no such key.
    """
    keys = split_key(text)
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


def split_key(text: str) -> tuple[str, ...]:
    """Return the parts of a dotted key of any TOML file; () if it is no key."""
    try:
        return tuple(_walk(tomllib.loads(f"{text} = 0"))) if "\n" not in text and "#" not in text else ()
    except ValueError:
        return ()


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


def change_setting(path: Path, keys: tuple[str, ...], value: Any) -> None:
    """Set the value at `keys`.

    Raises:
        InvalidInput: the file has a mistake, or the value is wrong; nothing was changed.
    """
    with _lock(path.parent):
        file = _read_changeable(path)
        mistake = _find_mistake(path, file) if file is not None else None
        if mistake is not None:
            raise InvalidInput(f"{mistake}; {_HOW_TO_CORRECT}")
        text = _change_text(path, file.text if file is not None else "", keys, value)
        check_user_settings(path, parse_toml(path, text.encode()))
        write_private_file(path, text)


def remove_setting(path: Path, keys: tuple[str, ...]) -> InvalidInput | None:
    """Remove what the file has at `keys`: a value or a whole table, also one that convstore does not know.

    Return the mistake that the file still has, or None. So mistakes can be removed one after another.

    Raises:
        InvalidInput: the file is not TOML, does not have it, or would get a mistake; nothing was changed.
    """
    with _lock(path.parent):
        file = _read_changeable(path)
        if file is None or not keys:
            raise _make_missing(path, keys)
        had_mistake = _find_mistake(path, file) is not None
        text = _change_text(path, file.text, keys, None)
        mistake = _find_mistake(path, parse_toml(path, text.encode()))
        if mistake is not None and not had_mistake:
            raise mistake
        write_private_file(path, text)
    return mistake


def _read_changeable(path: Path) -> TomlFile | None:
    try:
        return read_toml(path)
    except InvalidInput as error:  # not TOML: no tool can say which part of it is meant
        raise InvalidInput(f"{error}; {_HOW_TO_CORRECT}") from None


def _find_mistake(path: Path, file: TomlFile) -> InvalidInput | None:
    try:
        check_user_settings(path, file)
    except InvalidInput as error:
        return error
    return None


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
    if _drop_empty(tomllib.loads(after)) != _drop_empty(expected):
        raise InvalidInput(f"{path}: this cannot be changed here; use `convstore config edit`")


def _drop_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Return values without empty tables: the table that has a table is often written with it alone."""
    kept = {key: _drop_empty(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value != {}}


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
