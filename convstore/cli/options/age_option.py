"""Read options for a length of time: 90d, 12h, 4w, 1y."""

from __future__ import annotations

import re
from datetime import timedelta

import click

_HOURS = {"h": 1, "d": 24, "w": 168, "y": 8760}


def read_age(_context: click.Context, _option: click.Parameter, value: str | None) -> timedelta | None:
    """Return the length of time that a text names; for the callback of an option or an argument."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,5})([hdwy])", value.strip())
    if found is None:
        raise click.BadParameter(f"'{value}' is not a length of time such as 90d, 12h, 4w or 1y (365 days).")
    return timedelta(hours=int(found[1]) * _HOURS[found[2]])


def describe_age(age: timedelta) -> str:
    """Return a length of time as people type it: 90d, 12h."""
    hours = round(age.total_seconds() / 3600)
    return f"{hours // 24}d" if hours % 24 == 0 else f"{hours}h"
