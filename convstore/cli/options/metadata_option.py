"""Define --meta KEY=VALUE, a conversation's metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click


def metadata_option(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds --meta to a command.

    The command receives a dict as `metadata`.
    """
    return click.option(
        "--meta", "metadata", multiple=True, metavar="KEY=VALUE", callback=_read_metadata, help=help_text
    )


def _read_metadata(_context: click.Context, _option: click.Parameter, pairs: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise click.UsageError(f"--meta takes KEY=VALUE, not '{pair}'.")
        found[key] = value
    return found
