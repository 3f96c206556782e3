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
        click.UsageError: it cannot be written.
    """
    path = home.joinpath(*session.path.split("/"))
    if path.is_file():
        return path, False
    draft = path.with_name(f".{path.name}.{os.getpid()}")  # a session that is cut off must never be found
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in session.lines)
            path.hardlink_to(draft)  # unlike a rename, it replaces no file
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from None
    return path, True
