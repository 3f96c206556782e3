"""Write answers to stdout and everything else to stderr.

A terminal gets no control character that it would obey.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import IO, Any

import click

from convstore.cli.render.text_width import count_columns
from convstore.errors import ConvstoreError

# The control characters that a terminal obeys (ECMA-48): C0 except tab and newline, DEL, and C1. Pictures replace them.
_PICTURES: dict[int, str | None] = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
_PICTURES[0x0D] = None  # CR would overwrite the line; a text with CRLF is readable without it
_PICTURES[0x7F] = "\u2421"
_PICTURES.update(dict.fromkeys(range(128, 160), "�"))
# They change the order in which a terminal shows a text: https://www.unicode.org/reports/tr9/#Explicit_Directional_Embeddings
_BIDIRECTIONAL = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_PICTURES.update(dict.fromkeys(_BIDIRECTIONAL, "�"))
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *_BIDIRECTIONAL)}

_rephrase: list[Callable[[str], str]] = []
"""Changes the words of notes; empty: they stay."""

_lost: set[str] = set()
"""The encodings of stdout and stderr that lacked a character."""


def prepare_streams() -> None:
    """Prepare the standard streams, so that they cannot end the program.

    A closed stream is replaced, and so is a character that the encoding lacks.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed, as after `>&-`; the database file would get its number otherwise
            # Not by `Path`: help and completion do without its import.
            opened = open(os.devnull, "w" if number else "r", encoding="utf-8")  # noqa: SIM115, PTH123
            setattr(sys, name, opened)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="convstore.replace")


def describe_locale() -> str:
    """Return why texts are not UTF-8, and what to do about it; "" if the locale is not the reason."""
    encoding = sys.getfilesystemencoding()
    if encoding in ("utf-8", "utf8"):
        return ""
    name = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or "C"
    return f"the locale is {name} ({encoding}); set PYTHONUTF8=1 or LC_ALL=C.UTF-8"


def report_lost_characters() -> None:
    """Say on stderr if a character could not be written, and why."""
    if not _lost:
        return
    cause = describe_locale() or f"the encoding of the output is {', '.join(sorted(_lost))}; set PYTHONIOENCODING=utf-8"
    write_note(f"some characters were written as `?`: {cause}")


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and error.encoding.lower() not in ("utf-8", "utf8"):
        _lost.add(error.encoding)
    return codecs.replace_errors(error)


codecs.register_error("convstore.replace", _replace)


def abandon_stdout() -> None:
    """Write nothing more to stdout, not even at the exit.

    It is for a stdout that no program reads any more, or that is full.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def neutralise(text: str) -> str:
    """Return a text with its control characters made visible."""
    return text.translate(_PICTURES)


def make_one_line(text: str) -> str:
    """Return a text as a single line, with its control characters made visible."""
    return neutralise(" ".join(text.split()))


def write_answer(text: str, *, newline: bool = True) -> None:
    """Write a text to stdout, unchanged unless stdout is a terminal.

    On a terminal, its control characters are made visible.
    """
    sys.stdout.write(neutralise(text) if sys.stdout.isatty() else text)
    if newline:
        sys.stdout.write("\n")
    sys.stdout.flush()


@contextmanager
def rephrase_notes(rephrase: Callable[[str], str]) -> Iterator[None]:
    """Change the words of the notes that are written in this block."""
    _rephrase.append(rephrase)
    try:
        yield
    finally:
        _rephrase.pop()


def _make_note(text: str) -> str:
    return make_one_line(_rephrase[-1](text) if _rephrase else text)


def write_note(text: str) -> None:
    """Write a note, a warning or an error to stderr, as one line that begins with `convstore: `.

    So a person who reads the output of several programs knows which one speaks. Text that was written to stdout before
    appears before it. On a terminal, a long note is broken between its words.
    """
    _write_to_stderr(_break_lines(f"convstore: {_make_note(text)}"))


def write_detail(text: str) -> None:
    """Write a line to stderr that belongs to the note before it, or to the log; without a beginning of its own."""
    _write_to_stderr(neutralise(text.replace("\n", " ")))


def _write_to_stderr(text: str) -> None:
    with suppress(OSError, ValueError):  # an error of stdout is reported at the end of the program
        sys.stdout.flush()
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _break_lines(note: str) -> str:
    """Return a note in lines that fit on the terminal of stderr; a command in backquotes stays on one line."""
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
    except (OSError, ValueError):
        width = 0
    if not width or len(note) < width:
        return note
    lines = [""]
    for word in re.findall(r"[^\s`]*`[^`]*`\S*|\S+", note):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if count_columns(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def write_terminal_note(text: str) -> None:
    """Write a note for a person to stderr, if stderr is a terminal."""
    if sys.stderr.isatty():
        indent = text[: len(text) - len(text.lstrip(" "))]
        note = indent + _break_lines(_make_note(text))
        styled = click.style(note, dim=True) if has_colours(sys.stderr) else note
        sys.stderr.write(f"{styled}\n")
        sys.stderr.flush()


def has_colours(stream: IO[str]) -> bool:
    """Return True if colours may be written to a stream (https://no-color.org)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    from convstore.config.settings_file import read_user_settings  # here, because most output has no colours

    with suppress(ConvstoreError):  # a mistake in the file is reported by whoever needs the file
        return read_user_settings().rendering.get("colour") is not False
    return True


def write_json(value: object, *, indent: int | None = None) -> None:
    """Write JSON to stdout, without characters that a terminal obeys."""
    sys.stdout.write(format_json(value, indent=indent) + "\n")
    sys.stdout.flush()


def format_json(value: object, *, indent: int | None = None) -> str:
    """Return a value as JSON, with as few escapes as possible.

    Characters that the encoding of stdout cannot hold, or that a terminal obeys, are escaped.
    """
    import json  # here, because help and completion need none

    text = json.dumps(value, ensure_ascii=False, indent=indent, default=_make_plain)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent, default=_make_plain)
    return text.translate(_JSON_ESCAPES)


def _make_plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def format_local_time(moment: datetime) -> str:
    """Return a moment as `2026-11-26 07:15`, in the local time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
