"""Define the options for what is printed: --json, --plain, --limit and --no-pager."""

from __future__ import annotations

import click

json_option = click.option("--json", "as_json", is_flag=True, help="JSON output.")

plain_option = click.option(
    "--plain", "is_plain", is_flag=True, help="Text as it is on a terminal: no Markdown, nothing redrawn."
)

limit_option = click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Largest number to list; 0 for all.",
)

pager_option = click.option(
    "--no-pager",
    "uses_pager",
    is_flag=True,
    flag_value=False,
    default=True,
    help="No pager ($PAGER, else less) for output that is longer than the screen.",
)
