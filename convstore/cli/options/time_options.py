"""Define --since and --until: a day, a moment, or a time ago (7d)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def _read_moment(_context: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    """Return the moment that WHEN names, in UTC."""
    if value is None:
        return None
    try:
        if ago := re.fullmatch(r"(\d+)([hdw])", value):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"'{value}' is not a day (2026-11-01), a moment (2026-11-01T09:00) or a time ago (7d, 24h)."
        ) from None


since_option = click.option(
    "--since",
    callback=_read_moment,
    metavar="WHEN",
    help="Start of the period: 2026-11-01 (UTC), 7d, 24h.  [default: any time]",
)

until_option = click.option(
    "--until", callback=_read_moment, metavar="WHEN", help="End of the period, not included.  [default: now]"
)
