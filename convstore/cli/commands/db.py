"""`convstore db`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options import shared_options
from convstore.cli.render import output

if TYPE_CHECKING:
    from convstore.db.engine import Database
    from convstore.db.schema_upgrade import SchemaState


@click.group("db", epilog=shared_options.example("convstore db upgrade", "convstore db check --json"))
def database() -> None:
    """Look after the database's schema.

    A SQLite file upgrades itself when it is used. A PostgreSQL database is upgraded by `convstore db upgrade`,
    when you choose to.
    """


def _db_option(command: Any) -> Any:
    return click.option("--db", metavar="URL", help="The database.  [default: CONVSTORE_DB, else your data directory]")(
        command
    )


@contextmanager
def _opened(db: str | None) -> Iterator[Database]:
    from convstore.config import database_url
    from convstore.db.engine import open_database

    opened = open_database(database_url(db))
    try:
        yield opened
    finally:
        opened.close()


@database.command(epilog=shared_options.example("convstore db upgrade --db postgresql://app@localhost/app"))
@shared_options.json_option
@_db_option
def upgrade(as_json: bool, db: str | None) -> None:
    """Bring the schema to this release's."""
    from convstore.db import schema_upgrade

    with _opened(db) as opened:
        before = schema_upgrade.upgrade_database(opened)
        after = schema_upgrade.state(opened)
        if as_json:
            output.write_json({**_form(opened, after), "before": before.current})
        elif before.current == after.current:
            output.answer(f"{opened.label}: schema {after.current}, nothing to do")
        else:
            output.answer(f"{opened.label}: schema {before.current or 'none'} -> {after.current}")


@database.command(epilog=shared_options.example("convstore db current"))
@shared_options.json_option
@_db_option
def current(as_json: bool, db: str | None) -> None:
    """Print the schema that the database has. Changes nothing."""
    from convstore.db import schema_upgrade

    with _opened(db) as opened:
        found = schema_upgrade.state(opened)
        if as_json:
            output.write_json(_form(opened, found))
        else:
            output.answer(found.current or "none")


@database.command(epilog=shared_options.example("convstore db check && echo ready"))
@shared_options.json_option
@_db_option
def check(as_json: bool, db: str | None) -> None:
    """Say whether this release can use the database.

    If not, the exit code is 7 and the reason is on stderr. Nothing is changed.
    """
    from convstore.db import schema_upgrade

    with _opened(db) as opened:
        found = schema_upgrade.state(opened)
        if as_json:
            output.write_json(_form(opened, found))
        if not found.usable:
            raise schema_upgrade.refusal(found, opened)
        if not as_json:
            output.answer(f"{opened.label}: schema {found.current}, ready")


def _form(opened: Database, found: SchemaState) -> dict[str, Any]:
    return {
        "database": opened.label,
        "current": found.current,
        "head": found.head,
        "minimum": found.minimum,
        "up_to_date": found.up_to_date,
        "usable": found.usable,
    }
