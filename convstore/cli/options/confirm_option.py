"""Define --yes and --dry-run of commands that remove something for good, and ask before they do."""

from __future__ import annotations

import sys

import click

from convstore.cli.render.output_streams import make_one_line

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")


class Declined(click.ClickException):
    """The answer to a question was not yes, so nothing was done.

    The exit code is 1, as of git, apt and click; 130 is for Ctrl-C alone.
    """


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal whether to go on.

    Args:
        question: what will be done, without a question mark.
        yes: whether --yes was given, so that nothing is asked.

    Raises:
        Declined: the answer is not yes.
        UsageError: there is no terminal to ask on.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("this cannot be undone, and there is no terminal to ask on: give --yes.")
    sys.stderr.write(f"{make_one_line(question)}? [y/N] ")
    sys.stderr.flush()
    answer = ""
    try:
        answer = sys.stdin.readline()
    finally:
        if not answer.endswith("\n"):  # Ctrl-C, Ctrl-D: what comes next begins a line
            sys.stderr.write("\n")
    if answer.strip().lower() not in ("y", "yes"):
        raise Declined("nothing was removed")


def ask_to_edit_again() -> None:
    """Ask whether the editor shall be opened again after a mistake.

    Raises:
        Declined: the answer is no.
        click.Abort: Ctrl-C or Ctrl-D.
    """
    try:
        wants = click.confirm("Edit it again?", default=True, err=True)
    except click.Abort:
        sys.stderr.write("\n")
        raise
    if not wants:
        raise Declined("nothing was changed")
