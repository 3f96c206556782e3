"""Choose the hint after an error: what to type next.

The library's message names functions; the hint names commands. A command that fails prints one line: `<message>;
<hint>`.
"""

from __future__ import annotations

import re

import click

from convstore import errors
from convstore.cli.usage_texts import describe_usage_error


class NoConversationYet(errors.ConversationNotFound):
    """The command names no conversation, and the owner has none."""


_HINTS: dict[type[errors.ConvstoreError], str] = {
    errors.ContextTooLong: "raise --max-context, or unpin messages with `convstore unpin`",
    errors.ConversationBusy: "`convstore stop` ends a running turn",
    errors.ConversationDeleted: "`convstore restore` restores it, `convstore list --deleted` lists others",
    errors.ConversationExists: "`convstore set --name` renames one, `convstore restore` restores a deleted one",
    errors.ConversationNotFound: "see `convstore list` and `convstore list --deleted`",
    errors.HeadMoved: "`convstore show` shows it",
    errors.KeyNotFound: "see `convstore keys list --all-owners`",
    errors.LeaseLost: "see `convstore turns --json`",
    errors.PurgeUnfinished: "`convstore purge --finish` does the rest",
    errors.RedactionUnfinished: "`convstore purge --finish` does the rest",
    errors.ReplyInterrupted: "`convstore retry` sends the message again",
    errors.TurnFailed: "`convstore retry` sends it again",
    errors.UnansweredToolCalls: (
        "give the results with `convstore tool-result`, go back with `convstore undo`, or use --fill-missing-tools"
    ),
    NoConversationYet: "start one with `convstore new` or `convstore say --new`",
}
"""The hint for each error class. A class without a hint uses the hint of its base class."""

_HINTS_AFTER_MISSING = {
    "model": "name it with -m or `convstore set -m MODEL`",
    "server": "or name a server with --base-url",
}
_HINT_AFTER_REFUSAL = "see `convstore show`, `convstore edit` and `convstore undo`"
_HINTS_AFTER_PURPOSES = {
    "summary": "`convstore compact` tries again",
    "title": "`convstore title --auto` tries again",
}
_HINT_AFTER_UNKNOWN_MODEL = "`convstore retry -m MODEL` sends it to another model"

_SIMILAR_OPTIONS = {"--limit": "--last", "--last": "--limit", "--count": "--limit"}
"""Options that other commands have, and the option that a command may have instead."""
_TEXT_ARGUMENTS = {"MESSAGE", "QUERY", "TEXT", "TITLE"}


def add_hint(error: errors.ConvstoreError) -> str:
    """Return the message of an error, followed by the hint if there is one."""
    message = str(error)
    hint = _find_hint(error)
    return f"{message}; {hint}" if hint is not None else message


def add_usage_hint(error: click.UsageError) -> str:
    """Return the message of a usage error: with another option, `--`, or the command to get help from."""
    message = describe_usage_error(error)
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return f"{message} ({_name_help(error)})"
    parameters = error.ctx.command.params
    similar = _SIMILAR_OPTIONS.get(error.option_name)
    if similar is not None and any(similar in parameter.opts for parameter in parameters):
        return f"no option '{error.option_name}'; `{similar}` does it ({_name_help(error)})"
    is_option = re.fullmatch(r"--[A-Za-z][\w-]*", error.option_name) is not None
    names = [parameter.human_readable_name.rstrip(".") for parameter in parameters]
    texts = [name for name in names if name in _TEXT_ARGUMENTS]
    if texts and not is_option:
        return f"{message}; put `--` before a {texts[0]} that begins with a dash ({_name_help(error)})"
    return f"{message} ({_name_help(error)})"


def _name_help(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx is not None else "convstore"
    return f"see `{command} --help`"


def _find_hint(error: errors.ConvstoreError) -> str | None:
    if isinstance(error, errors.TurnFailed) and error.turn.purpose is not None:
        return _HINTS_AFTER_PURPOSES.get(error.turn.purpose)
    if isinstance(error, errors.TurnFailed) and (error.turn.error or {}).get("suspect"):
        return _HINT_AFTER_REFUSAL
    if isinstance(error, errors.TurnFailed) and _is_model_unknown(error):
        return _HINT_AFTER_UNKNOWN_MODEL
    if isinstance(error, errors.NotConfigured):
        return _HINTS_AFTER_MISSING.get(error.missing or "")
    return next((_HINTS[kind] for kind in type(error).__mro__ if kind in _HINTS), None)


def _is_model_unknown(error: errors.TurnFailed) -> bool:
    from convstore.provider.error_texts import is_model_unknown  # here, because only a failed call needs it

    return is_model_unknown(error.turn.error or {})
