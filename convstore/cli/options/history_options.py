"""Define the options for the window: what a request holds of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import click

WINDOW_OPTION_NAMES = frozenset(
    {
        *("history", "last", "max_context", "cache_stable", "on_overflow"),
        *("fill_missing_tools", "send_reasoning", "send_extra", "accept_done", "compact_at", "keep_last"),
    }
)
"""The library's names of these options."""

_NO_LIMIT = "all"


def _read_limit(value: str) -> int | str:
    """Return a number, or `all`, which removes the limit of the conversation."""
    try:
        return _NO_LIMIT if value == _NO_LIMIT else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor {_NO_LIMIT!r}.") from None


_CALL_OPTIONS = (
    click.option("--history/--no-history", default=None, help="With the history, or the new message alone."),
    click.option(
        "--last",
        type=_read_limit,
        metavar="N|all",
        help="Largest number of turns of the history to send; 0: system messages and the new one.",
    ),
    click.option(
        "--max-context",
        type=_read_limit,
        metavar="TOKENS|all",
        help="Largest request, in tokens; older history is left out.",
    ),
    click.option(
        "--cache-stable/--no-cache-stable",
        default=None,
        help="With --max-context: begin where the last request began, while that fits, or as early as fits.",
    ),
    click.option(
        "--on-overflow",
        type=click.Choice(["error", "trim"]),
        metavar="error|trim",
        help="When the provider finds the request too long: an error, or one more call with less.",
    ),
    click.option(
        "--fill-missing-tools/--no-fill-missing-tools",
        default=None,
        help="Placeholder for each tool call that has no result; otherwise such a call is an error.",
    ),
    click.option(
        "--send-reasoning/--no-send-reasoning",
        default=None,
        help="Model's own reasoning in the request.",
    ),
    click.option(
        "--send-extra",
        multiple=True,
        metavar="FIELD",
        help="Vendor's field of the model's own messages to send back; repeatable.",
    ),
    click.option(
        "--accept-done/--no-accept-done",
        default=None,
        help="[DONE] counts as the end of a reply that has no finish_reason; otherwise such a reply is an error.",
    ),
)
_STORED_OPTIONS = (
    *_CALL_OPTIONS,
    click.option(
        "--compact-at",
        type=click.INT,
        metavar="TOKENS",
        help="Size of a request after which older messages are summarised.",
    ),
    click.option(
        "--keep-last",
        type=click.INT,
        metavar="N",
        help="Number of last turns that a summary does not cover.  [default: 2]",
    ),
)


def window_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the window options of one call to a command; it receives a dict as `window`."""
    return _add_options(command, _CALL_OPTIONS)


def stored_window_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the window options that a conversation can keep to a command.

    The command receives a dict as `window`.
    """
    return _add_options(command, _STORED_OPTIONS)


def read_window(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the window options that are given among the arguments of a command."""
    # In the order of the command line, so that a conversation stores and shows them in that order.
    given = {name: value for name, value in arguments.items() if name in WINDOW_OPTION_NAMES}
    is_given = {name: value for name, value in given.items() if value not in (None, ())}
    return {name: None if value == _NO_LIMIT else value for name, value in is_given.items()}


def find_window_option(word: str) -> str | None:
    """Return the library's name of an option, such as `max_context` for `max-context`.

    Return None if there is no such option.
    """
    name = word.replace("-", "_")
    return name if name in WINDOW_OPTION_NAMES else None


def _add_options(
    command: Callable[..., Any], options: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...]
) -> Callable[..., Any]:
    @wraps(command)
    def run(**arguments: Any) -> None:
        window = read_window(arguments)
        others = {name: value for name, value in arguments.items() if name not in WINDOW_OPTION_NAMES}
        command(window=window, **others)

    for option in reversed(options):
        run = option(run)
    return run
