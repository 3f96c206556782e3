"""`convstore db`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import database_options
from convstore.cli.render.output_streams import write_answer, write_json

if TYPE_CHECKING:
    from convstore.db.engine import Database
    from convstore.db.schema_upgrade import SchemaState


@click.group("db", epilog=format_examples("convstore db upgrade", "convstore db check --json"))
def database() -> None:
    """Inspect and upgrade the database schema.

    A SQLite file is upgraded when it is first used. A PostgreSQL database is upgraded only by `convstore db upgrade`.
    """


@contextmanager
def _open(db: str | None) -> Iterator[Database]:
    from convstore.config import find_database_url
    from convstore.db.engine import open_database

    opened = open_database(find_database_url(db))
    try:
        yield opened
    finally:
        opened.close()


@database.command(epilog=format_examples("convstore db upgrade --db postgresql://app@localhost/app"))
@json_option
@database_options
def upgrade(as_json: bool, db: str | None) -> None:
    """Upgrade the schema to this release."""
    from convstore.db import schema_upgrade

    with _open(db) as opened:
        before = schema_upgrade.upgrade_database(opened)
        after = schema_upgrade.state(opened)
        if as_json:
            write_json({**_state_to_json(opened, after), "before": before.current})
        elif before.current == after.current:
            write_answer(f"{opened.label}: schema {after.current}, nothing to do")
        else:
            write_answer(f"{opened.label}: schema {before.current or 'none'} -> {after.current}")


@database.command(epilog=format_examples("convstore db current"))
@json_option
@database_options
def current(as_json: bool, db: str | None) -> None:
    """Print the schema of the database."""
    from convstore.db import schema_upgrade

    with _open(db) as opened:
        found = schema_upgrade.state(opened)
        if as_json:
            write_json(_state_to_json(opened, found))
        else:
            write_answer(found.current or "none")


@database.command(epilog=format_examples("convstore db check && echo ready"))
@json_option
@database_options
def check(as_json: bool, db: str | None) -> None:
    """Check that this release can use the database.

    If not, the exit code is 7, and the reason is on stderr. Nothing is changed.
    """
    from convstore.db import schema_upgrade

    with _open(db) as opened:
        found = schema_upgrade.state(opened)
        if as_json:
            write_json(_state_to_json(opened, found))
        if not found.usable:
            raise schema_upgrade.refusal(found, opened)
        if not as_json:
            write_answer(f"{opened.label}: schema {found.current}, ready")


def _state_to_json(opened: Database, found: SchemaState) -> dict[str, Any]:
    return {
        "database": opened.label,
        "current": found.current,
        "head": found.head,
        "minimum": found.minimum,
        "up_to_date": found.up_to_date,
        "usable": found.usable,
    }
