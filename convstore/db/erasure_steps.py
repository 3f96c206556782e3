"""Note what is left to do to a SQLite file until nothing of what was erased can be found in it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete, select

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_update, is_sqlite
from convstore.db.tables import erasures as table


class ErasureStep(StrEnum):
    """A step, in the order in which they are done."""

    INDEX = "index"
    """The search index is merged: until then, it has words that were removed, marked as removed."""
    REWRITE = "rewrite"
    """The file is rewritten: until then, pages have parts of rows that were elsewhere once."""
    LOG = "log"
    """The log is emptied: until then, it has pages as they were before."""


_COPIED = "copied"
"""Beside the steps: when this database became a copy of another one. It is not left to do."""

_READ = select(table.c.step, table.c.since)
_DONE = delete(table).where(table.c.step == bindparam("step"), table.c.since == bindparam("since"))


@cache
def _mark_statement(dialect: str) -> Any:
    return insert_or_update(table, {"since": bindparam("given_since", type_=table.c.since.type)}, dialect)


def overwrite_deleted(connection: Connection) -> None:
    """Let SQLite overwrite what is deleted from now on: a caller's own connection may not do it; ours do."""
    if is_sqlite(connection):
        connection.plain.exec_driver_sql("PRAGMA secure_delete = ON").close()


def mark_steps(connection: Connection, now: datetime) -> None:
    """Note, in the transaction that erases something, that all steps must be done. On PostgreSQL there are none."""
    if is_sqlite(connection):
        overwrite_deleted(connection)
        rows = [{"step": step.value, "since": now, "given_since": now} for step in ErasureStep]
        connection.execute_many(_mark_statement(connection.dialect.name), rows)


def read_steps(connection: Connection) -> dict[ErasureStep, datetime]:
    """Return the steps that are left, and since when."""
    found = {row.step: row.since for row in connection.execute(_READ)}
    return {step: found[step.value] for step in ErasureStep if step.value in found}


def mark_copied(connection: Connection, now: datetime) -> None:
    """Note that the database is a complete copy of another one from now on."""
    row = {"step": _COPIED, "since": now, "given_since": now}
    connection.execute(_mark_statement(connection.dialect.name), row)


def read_copied(connection: Connection) -> datetime | None:
    """Return when the database became a copy of another one; None: it did not, or an older release made it."""
    return next((row.since for row in connection.execute(_READ) if row.step == _COPIED), None)


def mark_done(connection: Connection, step: ErasureStep, since: datetime) -> None:
    """Note that a step was done, unless something was erased since."""
    connection.execute(_DONE, {"step": step.value, "since": since})
