"""What reaches the terminal: the answer on stdout, everything else on stderr, and nothing that could drive it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import click

# A terminal obeys these (ECMA-48): C0 but for tab and newline, DEL, and C1. They are shown as pictures instead.
_VISIBLE: dict[int, str | None] = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
_VISIBLE[0x0D] = None  # a carriage return would write over its own line; without it CRLF still reads well
_VISIBLE[0x7F] = "\u2421"
_VISIBLE.update(dict.fromkeys(range(128, 160), "�"))
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def prepare_streams() -> None:
    """Let no closed stream, and no character that the terminal's encoding lacks, end the program."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # as after `>&-`: the next file opened, a database, would take its number
            setattr(sys, name, Path(os.devnull).open("w" if number else "r", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def abandon() -> None:
    """Write nothing more to stdout, which nobody reads or which takes nothing: not even at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def neutral(text: str) -> str:
    """Return `text` with its control characters made visible."""
    return text.translate(_VISIBLE)


def one_line(text: str) -> str:
    """Return `text` as a single line, with its control characters made visible."""
    return neutral(" ".join(text.split()))


def answer(text: str, *, newline: bool = True) -> None:
    """Write text of a model, or of a person, to stdout: exactly, but to a terminal without its control characters."""
    sys.stdout.write(neutral(text) if sys.stdout.isatty() else text)
    if newline:
        sys.stdout.write("\n")
    sys.stdout.flush()


def end_line(text: str) -> None:
    """End the line of text that was written in pieces, if it has not ended."""
    if text and not text.endswith("\n"):
        answer("")


def note(text: str) -> None:
    """Write a note, a warning or an error to stderr."""
    sys.stderr.write(f"{one_line(text)}\n")
    sys.stderr.flush()


def note_on_terminal(text: str) -> None:
    """Write a note that only a person at a terminal wants."""
    if sys.stderr.isatty():
        styled = click.style(one_line(text), dim=True) if colours(sys.stderr) else one_line(text)
        sys.stderr.write(f"{styled}\n")
        sys.stderr.flush()


def colours(stream: IO[str]) -> bool:
    """Whether to write colours to `stream` (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write_json(value: object, *, indent: int | None = None) -> None:
    """Write JSON to stdout, with no character that a terminal obeys."""
    sys.stdout.write(json_text(value, indent=indent) + "\n")
    sys.stdout.flush()


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return `value` as JSON: readable, but escaped where UTF-8 has no form or a terminal would obey."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent, default=_plain)
    return text.translate(_JSON_ESCAPES)


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def local_time(moment: datetime) -> str:
    """Return a moment as a person reads it, in the local time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
