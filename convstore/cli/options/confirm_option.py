"""Define --yes and --dry-run of commands that remove something for good, and ask before they do."""

from __future__ import annotations

import sys

import click

from convstore.cli.render.output_streams import make_one_line, write_note

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal whether to go on; end the command if the answer is not yes.

    Args:
        question: what will be done, without a question mark.
        yes: whether --yes was given, so that nothing is asked.

    Raises:
        UsageError: there is no terminal to ask on.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("this cannot be undone, and there is no terminal to ask on: give --yes.")
    sys.stderr.write(f"{make_one_line(question)}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        write_note("convstore: nothing was removed")
        raise click.Abort
