"""Read text from TEXT|@FILE and standard input, and check that all of it is UTF-8."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterable
from os import fstat
from select import select

import click

from convstore.cli.render.output_streams import describe_locale, write_note, write_terminal_note

_SILENT_PIPE_SECONDS = 3.0  # after this time without input, a note tells the user what the command waits for


def read_text_or_file(value: str) -> str:
    """Return the text of an option that takes TEXT|@FILE.

    On the command line, @@ stands for the @ at the beginning of a text.

    Raises:
        click.UsageError: the file cannot be read, or is not UTF-8.
    """
    if not value.startswith("@"):
        return value
    if value.startswith("@@"):
        return value[1:]
    try:
        from pathlib import Path  # here, because it takes half as long to import as click, and help reads no file

        return decode_utf8(Path(value[1:]).read_bytes(), f"'{value}'")
    except OSError as error:
        raise click.UsageError(f"'{value}' cannot be read: {error.strerror}.") from None


def read_message(argument: str | None, *, may_be_missing: bool) -> str:
    """Return the text of MESSAGE and of standard input, joined by an empty line.

    Args:
        argument: MESSAGE; None or `-` to read standard input alone.
        may_be_missing: if True, and there is no MESSAGE, do not wait for the user to type one.
    """
    if argument is None and may_be_missing:
        return read_stdin() if _is_redirected() else ""
    if argument is None or argument == "-":
        return read_typed_text()
    if _is_redirected():
        piped = read_stdin()
        if piped.strip():
            return f"{argument}\n\n{piped}"
    return argument


def read_typed_text() -> str:
    """Return standard input as text; on a terminal, say how to end it."""
    if sys.stdin.isatty():
        write_terminal_note("(type the text; end it with Ctrl-D on a line of its own)")
    return read_stdin()


def read_stdin() -> str:
    """Return standard input as text, without the line end at its end (`\\n` or `\\r\\n`)."""
    text = decode_utf8(sys.stdin.buffer.read(), "standard input")
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


def check_arguments(arguments: Iterable[str]) -> None:
    """Check that the arguments are UTF-8; only the name in @FILE may be any bytes.

    Python turns each byte that is not valid in the locale's encoding into a lone surrogate.

    Raises:
        click.UsageError: an argument is not UTF-8.
    """
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            if not argument.startswith("@"):
                cause = describe_locale()
                raise click.UsageError(f"argument {number} is not UTF-8{': ' + cause if cause else '.'}") from None


def decode_utf8(data: bytes, source: str) -> str:
    """Return the text of some bytes, without a byte order mark, which says only that it is UTF-8."""
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source} is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}).") from None


def _is_redirected() -> bool:
    """Return True if standard input is a file or a pipe."""
    try:
        mode = fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)  # some programs' pipes are sockets
    if is_pipe and not select([sys.stdin], [], [], _SILENT_PIPE_SECONDS)[0]:
        # Some programs start others with a pipe that they neither write to nor close.
        write_note("waiting for standard input, to add it to MESSAGE; `< /dev/null` adds nothing")
    return is_pipe or stat.S_ISREG(mode)
