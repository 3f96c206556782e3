"""Write session files of other programs where these programs look for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from convstore.transfer.writers.session_file import SessionFile

_HOMES = {"claude": ("CLAUDE_CONFIG_DIR", ".claude"), "codex": ("CODEX_HOME", ".codex")}
"""The variable that names a program's folder, and its name below the user's home otherwise."""


def find_program_folder(program: str) -> Path:
    """Return the folder in which a program keeps its sessions."""
    variable, name = _HOMES[program]
    return Path(os.environ.get(variable) or Path.home() / name)


def write_session_file(session: SessionFile, home: Path) -> tuple[Path, bool]:
    """Write a session file, and return its path; return False too if it was there already, which is then kept.

    Raises:
        click.ClickException: it cannot be written.
    """
    path = home.joinpath(*session.path.split("/"))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.is_file():
            return path, False
        raise click.UsageError(f"{path}: it exists, and is no file") from None
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from None
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in session.lines)
    except BaseException:
        path.unlink()
        raise
    return path, True
