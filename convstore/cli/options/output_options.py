"""Define the options for what is printed: --json and --limit."""

from __future__ import annotations

import click

json_option = click.option("--json", "as_json", is_flag=True, help="JSON output.")

limit_option = click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Largest number to list; 0 for all.",
)
