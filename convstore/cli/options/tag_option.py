"""Define --tag NAME."""

from __future__ import annotations

import click

from convstore.cli.options.completed_words import complete_tag

tag_option = click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_tag,
    help="Tag of the conversation; repeatable: all of them.",
)
