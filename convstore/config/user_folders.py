"""Find the user's folders, and write files there that nobody else can read."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

from convstore.errors import InvalidInput

UserFolder = Literal["user_data_dir", "user_config_dir"]


def find_user_folder(kind: UserFolder) -> Path | None:
    """Return a user's folder for convstore, or None if the home directory is unknown."""
    if sys.platform == "linux" and "ANDROID_ROOT" not in os.environ:
        return _find_xdg_folder(kind)
    import platformdirs

    try:
        folder = Path(getattr(platformdirs, kind)("convstore", appauthor=False))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # `~` is not replaced if the home directory is unknown


_XDG = {"user_data_dir": ("XDG_DATA_HOME", ".local/share"), "user_config_dir": ("XDG_CONFIG_HOME", ".config")}


def _find_xdg_folder(kind: UserFolder) -> Path | None:
    """Return what platformdirs returns on Linux, without its import of seven ms.

    The rule is the XDG Base Directory Specification's: https://specifications.freedesktop.org/basedir-spec/latest/
    """
    variable, usual = _XDG[kind]
    chosen = os.environ.get(variable, "").strip()
    base = chosen if os.path.isabs(chosen) else os.path.join(os.path.expanduser("~"), usual)  # noqa: PTH111, PTH117, PTH118
    folder = Path(base) / "convstore"
    return folder if folder.is_absolute() else None


def require_config_folder() -> Path:
    """Return the user's configuration directory.

    Raises:
        InvalidInput: the home directory is unknown.
    """
    folder = find_user_folder("user_config_dir")
    if folder is None:
        raise InvalidInput("your configuration directory is unknown (HOME is not set)")
    return folder


def write_private_file(path: Path, text: str) -> None:
    """Write a file of mode 0600 in a folder of mode 0700, in one step.

    A reader sees the old text or the new one, never a part.

    If the path is a symbolic link, the file that it names is replaced, and the link stays.

    Raises:
        InvalidInput: the file or its folder cannot be written.
    """
    import tempfile

    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # its mode is 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise InvalidInput(f"{str(path)!r} cannot be written: {error.strerror}") from None
