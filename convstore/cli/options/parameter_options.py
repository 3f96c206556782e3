"""Define the options for completion parameters.

They are -m, --temperature, --top-p, --max-tokens, and -o for any other parameter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

import click

from convstore.cli.options.completed_words import complete_model
from convstore.cli.options.text_input import read_text_or_file

# The store's methods use these names for arguments that are not completion parameters, so `-o` must not set them.
_RESERVED_NAMES = {
    "conversation_id": "REF names the conversation",
    "history": "use --no-history",
    "last": "use --last",
    "max_context": "use --max-context",
    "cache_stable": "use --no-cache-stable",
    "on_overflow": "use --on-overflow",
    "fill_missing_tools": "use --fill-missing-tools",
    "send_reasoning": "use --send-reasoning",
    "send_extra": "use --send-extra",
    "accept_done": "use --accept-done",
    "compact_at": "use `convstore set --compact-at`",
    "keep_last": "use `convstore set --keep-last`",
    "id": "use `convstore new --id`",
    "message": "MESSAGE is the argument of `convstore say`",
    "messages": "convstore sends the history",
    "name": "use --name for a conversation, --sender for a message",
    "stream": "use --no-stream",
    "system": "use --system",
    "title": "use `convstore set --title`",
    "idempotency_key": "use --key",
    "on_busy": "use --no-wait",
    "wait": "use --wait",
    "expected_head": "use --expected-head",
    "position": "POSITION is the argument of `convstore edit`",
}

OPTION_PARAMETERS = ("model", "temperature", "top_p", "max_tokens")
"""The parameters that have an option of their own."""

_PARAMETER_OPTIONS = (
    click.option("-m", "--model", metavar="MODEL", shell_complete=complete_model, help="Model to call."),
    click.option("--temperature", type=float, metavar="X", help="Sampling temperature, 0 to 2."),
    click.option("--top-p", type=float, metavar="X", help="Nucleus sampling, instead of --temperature."),
    click.option("--max-tokens", type=int, metavar="N", help="Longest reply, in tokens."),
    click.option(
        "-o",
        "others",
        nargs=2,
        multiple=True,
        metavar="KEY VALUE",
        help="Other parameter; VALUE is JSON, text, or @FILE with either; repeatable.",
    ),
)


def parameter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for completion parameters to a command.

    The command receives a dict as `parameters`.
    """

    @wraps(command)
    def run(
        *,
        model: str | None,
        temperature: float | None,
        top_p: float | None,
        max_tokens: int | None,
        others: Iterable[tuple[str, str]],
        **arguments: Any,
    ) -> None:
        named = {"model": model, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        command(parameters=read_parameters(named, others), **arguments)

    for option in reversed(_PARAMETER_OPTIONS):
        run = option(run)
    return run


def read_parameters(named: Mapping[str, Any], others: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the parameters that the command line gives.

    A VALUE of `-o` is JSON if it can be parsed as JSON, else text.

    Raises:
        click.UsageError: a parameter is given twice, a name is reserved, or a file cannot be read.
    """
    found = {key: value for key, value in named.items() if value is not None}
    for key, value in others:
        check_parameter_name(key)
        if key in found:
            raise click.UsageError(f"the parameter '{key}' is given twice.")
        text = read_text_or_file(value)
        if value.startswith("@") and not text.strip():  # an empty tools file is a mistake, not an empty text
            raise click.UsageError(f"'{value}' is empty.")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def check_stored_parameters(parameters: Mapping[str, Any]) -> None:
    """Check that a conversation can keep these parameters.

    Raises:
        click.UsageError: `metadata` is among them.
    """
    if "metadata" in parameters:
        raise click.UsageError("a conversation cannot keep the parameter 'metadata': use --meta.")


def check_parameter_name(key: str) -> None:
    """Check that KEY can be a completion parameter.

    Raises:
        click.UsageError: the name is empty, or another option or argument has it.
    """
    if not key.strip():
        raise click.UsageError("the KEY of a parameter is empty.")
    if key in _RESERVED_NAMES:
        raise click.UsageError(f"'{key}' is not a completion parameter: {_RESERVED_NAMES[key]}.")
