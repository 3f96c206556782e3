"""What commands share: the options that every one of them has, and the form of their help."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from convstore.cli.render import output

# What `-o` cannot name: the store's methods take these words for other things than completion parameters.
_NO_PARAMETERS = {
    "conversation_id": "REF names the conversation",
    "history": "there is --no-history",
    "last": "there is --last",
    "max_context": "there is --max-context",
    "on_overflow": "there is --on-overflow",
    "fill_missing_tools": "there is --fill-missing-tools",
    "send_reasoning": "there is --send-reasoning",
    "compact_at": "there is `convstore set --compact-at`",
    "keep_last": "there is `convstore set --keep-last`",
    "id": "there is `convstore new --id`",
    "message": "MESSAGE is the argument of `convstore say`",
    "messages": "they come from the history",
    "name": "there are --name and --sender",
    "stream": "there is --no-stream",
    "system": "there is --system",
    "title": "it is a conversation's, not a request's",
    "idempotency_key": "there is --key",
    "on_busy": "there is --no-wait",
    "wait": "there is --wait",
    "expected_head": "there is --expected-head",
    "position": "POSITION is the argument of `convstore edit`",
}

F = TypeVar("F", bound=Callable[..., Any])


def example(*lines: str) -> str:
    """Return a command's examples as click's help prints them: unwrapped, under a heading."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def store_options(command: F) -> F:
    """Which database, and whose conversations."""
    command = click.option(
        "--owner",
        envvar="CONVSTORE_OWNER",
        default="",
        metavar="OWNER",
        help="Whose conversations these are.  [default: CONVSTORE_OWNER, else nobody's in particular]",
    )(command)
    return click.option(
        "--db",
        metavar="URL",
        help="The database: a SQLAlchemy URL or a SQLite file.  [default: CONVSTORE_DB, else your data directory]",
    )(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def conversation_option(command: F) -> F:
    return click.option(
        "-c", "--conversation", "ref", metavar="REF", help="The conversation.  [default: the one used last]"
    )(command)


def head_option(command: F) -> F:
    return click.option(
        "--expected-head",
        type=click.IntRange(min=0),
        metavar="SEQ",
        help="Exit with 5 unless the conversation's last message is this one.",
    )(command)


def parameter_options(command: F) -> F:
    """The completion parameters; `parameters` turns them into what the library takes."""
    for option in (
        click.option(
            "-o",
            "options",
            nargs=2,
            multiple=True,
            metavar="KEY VALUE",
            help="Any other parameter, its value JSON, text, or @FILE with either; repeatable.",
        ),
        click.option("--max-tokens", type=int, metavar="N", help="The longest reply, in tokens."),
        click.option("--top-p", type=float, metavar="X", help="Nucleus sampling; instead of --temperature."),
        click.option("--temperature", type=float, metavar="X", help="Sampling temperature, 0 to 2."),
        click.option("-m", "--model", metavar="MODEL", help="The model to ask."),
    ):
        command = option(command)
    return command


def parameters(
    model: str | None,
    temperature: float | None,
    top_p: float | None,
    max_tokens: int | None,
    options: Iterable[tuple[str, str]],
) -> dict[str, Any]:
    """Return the completion parameters that were given on the command line.

    The VALUE of `-o` is JSON where it can be read as such, else text: `-o seed 7`, `-o stop END`; or it is @FILE.

    Raises:
        click.UsageError: one is given twice, or is no parameter of a completion; or a file cannot be read.
    """
    named = {"model": model, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    given = {key: value for key, value in named.items() if value is not None}
    for key, value in options:
        check_key(key)
        if key in given:
            raise click.UsageError(f"{key} is given twice.")
        text = text_or_file(value) or ""
        if value.startswith("@") and not text.strip():  # a schema that was not written is no text to send
            raise click.UsageError(f"{value} is empty.")
        try:
            given[key] = json.loads(text)
        except ValueError:
            given[key] = text
    return given


def kept_parameters(**given: Any) -> dict[str, Any]:
    """Return the parameters that a conversation is to keep.

    Raises:
        click.UsageError: as `parameters`; or it is `metadata`, which a conversation has of its own.
    """
    found = parameters(**given)
    if "metadata" in found:
        raise click.UsageError("metadata is not a parameter to keep: a conversation has its own (--meta).")
    return found


def check_key(key: str) -> None:
    """Check that KEY can name a completion parameter.

    Raises:
        click.UsageError: it is empty, or what other options or convstore itself are there for.
    """
    if not key.strip():
        raise click.UsageError("the KEY of a parameter is empty.")
    if key in _NO_PARAMETERS:
        raise click.UsageError(f"{key} is not a parameter to give: {_NO_PARAMETERS[key]}.")


def metadata(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the metadata of `--meta KEY=VALUE` options."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise click.UsageError(f"--meta takes KEY=VALUE, not {pair!r}.")
        found[key] = value
    return found


def text_or_file(value: str | None) -> str | None:
    """Return the text of an option that takes TEXT or @FILE; a text that begins with @ is written @@."""
    if value is None or not value.startswith("@"):
        return value
    if value.startswith("@@"):
        return value[1:]
    try:
        return decode(Path(value[1:]).read_bytes(), value)
    except OSError as error:
        raise click.UsageError(f"{value} cannot be read: {error.strerror}.") from None


def decode(data: bytes, source: str) -> str:
    """Return bytes from outside as text.

    Raises:
        click.UsageError: they are not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source} is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}).") from None


def read_typed() -> str:
    """Return standard input as text; a person who is to type it is told how to end it."""
    if sys.stdin.isatty():
        output.note_on_terminal("(type the text; end it with Ctrl-D on a line of its own)")
    return read_input()


def read_input() -> str:
    """Return standard input as text, without the newline that ends its last line."""
    return decode(sys.stdin.buffer.read(), "standard input").removesuffix("\n")


def check_arguments(arguments: Iterable[str]) -> None:
    """Check that the arguments are text: bytes of them that the locale cannot decode have become lone surrogates.

    Raises:
        click.UsageError: one is not; only the name of a file (@FILE) may be any bytes.
    """
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            if not argument.startswith("@"):
                raise click.UsageError(f"argument {number} is not UTF-8.") from None
