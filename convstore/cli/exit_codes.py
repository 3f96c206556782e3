"""Errors as people and scripts see them: one clear line on stderr, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback

import click

from convstore import errors
from convstore.cli.render import output

_EXIT_CODES: tuple[tuple[type[errors.ConvstoreError], int], ...] = (
    (errors.InvalidInput, 2),
    (errors.ConversationNotFound, 3),
    (errors.AmbiguousReference, 4),
    (errors.Conflict, 5),
    (errors.TurnFailed, 6),
    (errors.DatabaseError, 7),
)
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def report(error: BaseException) -> int:
    """Say on stderr what went wrong, and return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return _INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show(sys.stderr)
        return error.exit_code
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx is not None else "convstore"
        output.note(f"convstore: {error.format_message()} (see `{command} --help`)")
        return error.exit_code
    if isinstance(error, click.ClickException):
        output.note(f"convstore: {error.format_message()}")
        return error.exit_code
    if isinstance(error, errors.ConvstoreError):
        output.note(f"convstore: {error}")
        if isinstance(error, errors.AmbiguousReference):
            for candidate in error.candidates:
                output.note(f"  {candidate.id}  {candidate.name or ''}  {candidate.title or ''}".rstrip())
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
    if isinstance(error, OSError):  # the database's and the provider's are errors of ours: this is the output's
        output.note(f"convstore: {error.strerror or error}")
        return 1
    if os.environ.get("CONVSTORE_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    output.note(
        f"convstore: unexpected {type(error).__name__}: {error}; this is a fault of convstore's, "
        "please report it (CONVSTORE_DEBUG=1 shows where it happened)"
    )
    return 1
