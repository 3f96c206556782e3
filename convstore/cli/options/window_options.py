"""How much of a conversation a model is to see: the options, and in words what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

KEYS = frozenset(
    {
        *("history", "last", "max_context", "on_overflow"),
        *("fill_missing_tools", "send_reasoning", "compact_at", "keep_last"),
    }
)
"""What these options are called in the library."""

_ALL = "all"


def _most(value: str) -> int | str:
    """Read a number, or `all`, which takes a limit that the conversation has away."""
    try:
        return _ALL if value == _ALL else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor {_ALL!r}.") from None


def options(command: F) -> F:
    """The options of the window that a call can have; `taken` turns them into what the library takes."""
    for option in (
        click.option(
            "--send-reasoning/--no-send-reasoning", default=None, help="Send the model its own reasoning back, or not."
        ),
        click.option(
            "--fill-missing-tools/--no-fill-missing-tools",
            default=None,
            help="Send a placeholder for each tool call without a result, or refuse.",
        ),
        click.option(
            "--on-overflow",
            type=click.Choice(["error", "trim"]),
            metavar="error|trim",
            help="What to do when the provider finds the request too long: fail, or send less, once.",
        ),
        click.option(
            "--max-context",
            type=_most,
            metavar="TOKENS|all",
            help="Send no more of the history than fits into so many tokens.",
        ),
        click.option(
            "--last",
            type=_most,
            metavar="N|all",
            help="Send the last N turns of the history at most; 0: system messages and the new one.",
        ),
        click.option("--history/--no-history", default=None, help="Send the history, or the new message alone."),
    ):
        command = option(command)
    return command


def kept_options(command: F) -> F:
    """The options of the window that a conversation can keep."""
    for option in (
        click.option(
            "--keep-last", type=click.INT, metavar="N", help="How many turns a summary leaves alone.  [default: 2]"
        ),
        click.option(
            "--compact-at",
            type=click.INT,
            metavar="TOKENS",
            help="Summarise the older part after a request of so many tokens.",
        ),
    ):
        command = option(command)
    return options(command)


def taken(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the window out of a command's arguments, and return those that were given."""
    # In the order in which they were given, so that what is kept and shown does not differ from run to run.
    found = {key: given.pop(key) for key in [key for key in given if key in KEYS]}
    return {key: None if value == _ALL else value for key, value in found.items() if value is not None}


def key(word: str) -> str | None:
    """Return what the library calls the option of the window that a person names, as `max-context`; None: none."""
    found = word.replace("-", "_")
    return found if found in KEYS else None


def is_partial(facts: Mapping[str, Any]) -> bool:
    """Whether a request is not simply the whole history and the new message."""
    return any(facts.get(key) for key in ("left_out", "summary", "filled"))


def explained(facts: Mapping[str, Any]) -> list[str]:
    """Return in a line or two what a request leaves out, what stands for it, and how long it is."""
    tokens = f"about {facts['tokens']:,} tokens"
    lines = []
    left_out = facts.get("left_out", 0)
    if left_out:
        kept = facts["history"]
        sent = f"{kept} {'is' if kept == 1 else 'are'} sent"
        if facts["from_seq"] is not None:
            sent += f", all from seq {facts['from_seq']} on"
        also = [
            f"{name} messages (seq {_listed(facts[key])})"
            for key, name in (("context", "system"), ("pinned", "pinned"))
            if facts.get(key)
        ]
        if also:
            sent += f"{'; before it' if facts['from_seq'] is not None else ':'} {' and '.join(also)}"
        lines.append(f"{left_out} of {left_out + kept} messages of the history are left out; {sent}")
    stand_in = []
    if facts.get("summary") is not None:
        stand_in.append(f"the summary of turn {facts['summary']} stands in")
    if facts.get("filled"):
        stand_in.append(f"placeholders answer {', '.join(map(str, facts['filled']))}")
    lines.append("; ".join([*stand_in, tokens]))
    return lines


def _listed(seqs: Sequence[int]) -> str:
    most = 8
    more = f" … {len(seqs) - most} more" if len(seqs) > most else ""
    return ", ".join(map(str, seqs[:most])) + more
