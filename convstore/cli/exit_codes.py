"""Print an error as one line on stderr, and choose the exit code."""

from __future__ import annotations

import os
import sys

import click

from convstore import errors
from convstore.cli.error_hints import add_hint, add_usage_hint
from convstore.cli.render.output_streams import write_detail, write_note

EXIT_CODES: tuple[tuple[type[errors.ConvstoreError], int], ...] = (
    (errors.InvalidInput, 2),
    (errors.ConversationNotFound, 3),
    (errors.KeyNotFound, 3),
    (errors.AmbiguousReference, 4),
    (errors.Conflict, 5),
    (errors.TurnFailed, 6),
    (errors.DatabaseError, 7),
)
_INTERRUPTED = 130  # 128 + SIGINT, as in shells


def report_error(error: BaseException) -> int:
    """Print on stderr what went wrong, and return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return _INTERRUPTED
    if isinstance(error, click.ClickException):
        return _report_usage_error(error)
    if isinstance(error, errors.ConvstoreError):
        return _report_library_error(error)
    if isinstance(error, OSError):  # from stdout; errors of the database and the provider are ConvstoreErrors
        write_note(f"cannot write to stdout: {error.strerror or error}")
        return 1
    return _report_bug(error)


def _report_usage_error(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show(sys.stderr)
    elif isinstance(error, click.UsageError):
        write_note(add_usage_hint(error))
    else:
        write_note(error.format_message())
    return error.exit_code


def _report_library_error(error: errors.ConvstoreError) -> int:
    write_note(add_hint(error))
    if isinstance(error, errors.AmbiguousReference):
        for candidate in error.candidates:
            write_detail(f"  {candidate.id}  {candidate.name or ''}  {candidate.title or ''}".rstrip())
    return find_exit_code(error)


def find_exit_code(error: errors.ConvstoreError) -> int:
    """Return the exit code for an error of the library."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def _report_bug(error: BaseException) -> int:
    if os.environ.get("CONVSTORE_DEBUG"):
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    write_note(
        f"unexpected {type(error).__name__}: {error}; this is a bug in convstore, please report it "
        "(CONVSTORE_DEBUG=1 shows where it happened)"
    )
    return 1
