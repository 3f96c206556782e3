"""Define --tag NAME."""

from __future__ import annotations

import click

tag_option = click.option(
    "--tag", "tags", multiple=True, metavar="NAME", help="Tag of the conversation; repeatable: all of them."
)
