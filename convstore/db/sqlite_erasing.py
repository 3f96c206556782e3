"""Overwrite what was erased from a SQLite database, in its file and in its log.

`secure_delete` overwrites rows that are deleted. It does not overwrite copies of them that stayed in the free middle of
a page when SQLite divided the page: so the file is rewritten. Before that, the search index is merged, because FTS5
keeps the words that were removed, marked as removed; and after it the log is emptied.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import text

from convstore.db.engine import Database
from convstore.db.erasure_steps import ErasureStep, mark_done, read_steps
from convstore.db.search_index import TERMS_TABLE, IndexKind, find_kind
from convstore.errors import DatabaseUnavailable

_WAIT_MS = 3000
_MERGED_PAGES = 1000
"""How much one transaction merges: others wait for it."""
# https://sqlite.org/fts5.html#the_merge_command: with a negative number, all segments become one in the end.
_BEGIN_MERGE = text(f"INSERT INTO {TERMS_TABLE} ({TERMS_TABLE}, rank) VALUES ('merge', -{_MERGED_PAGES})")  # noqa: S608
_MERGE = text(f"INSERT INTO {TERMS_TABLE} ({TERMS_TABLE}, rank) VALUES ('merge', {_MERGED_PAGES})")  # noqa: S608


def finish_erasing(database: Database) -> tuple[ErasureStep, ...]:
    """Do the steps that are left, and return those that could not be done now, because others use the file.

    Raises:
        DatabaseUnavailable: a step failed for another reason, such as a full disk.
    """
    if not database.is_sqlite:
        return ()
    with database.read() as connection:
        left = read_steps(connection)
    perform = {ErasureStep.INDEX: _merge_index, ErasureStep.REWRITE: _rewrite, ErasureStep.LOG: _empty_log}
    for step, since in left.items():
        if not perform[step](database):
            break
        with database.write() as connection:
            mark_done(connection, step, since)
    with database.read() as connection:
        return tuple(read_steps(connection))


def list_steps_left(database: Database) -> dict[ErasureStep, datetime]:
    """Return the steps that are left, and since when; the database has the schema of this release."""
    if not database.is_sqlite:
        return {}
    with database.read() as connection:
        return read_steps(connection)


def _merge_index(database: Database) -> bool:
    """Merge the search index, piece by piece, so that no segment has a word that was removed."""
    statement = _BEGIN_MERGE
    while True:
        with database.write() as connection:
            if find_kind(connection) is not IndexKind.FTS5:
                return find_kind(connection) is IndexKind.TABLE
            driver: Any = connection.plain.connection.driver_connection
            before = driver.total_changes
            connection.execute(statement)
            if statement is _MERGE and driver.total_changes - before < 2:
                return True
        statement = _MERGE


def _rewrite(database: Database) -> bool:
    """Rewrite the file, page by page; return False if another program is writing."""
    if database.path is None:
        return True
    with _open(database) as driver:
        try:
            driver.execute("VACUUM")
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                return False
            raise
    return True


def _empty_log(database: Database) -> bool:
    """Copy the log into the file and cut it to nothing; return False if somebody reads it."""
    if database.path is None:
        return True
    with _open(database) as driver:
        busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


@contextmanager
def _open(database: Database) -> Iterator[Any]:
    """Yield the driver's connection, without a transaction, which waits for others only for a moment."""
    with database._translated(), database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if driver.in_transaction:
            driver.execute("ROLLBACK")  # on a caller's engine, the driver may always be in one
        waits = int(driver.execute("PRAGMA busy_timeout").fetchone()[0])
        driver.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
        try:
            yield driver
        except sqlite3.Error as error:
            raise DatabaseUnavailable(
                f"database {database.label}: what was erased is not overwritten yet ({error}); finish the purge later"
            ) from error
        finally:
            driver.execute(f"PRAGMA busy_timeout = {waits}")
