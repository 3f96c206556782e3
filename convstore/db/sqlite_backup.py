"""Copy a SQLite database to a file, and back, while programs use it.

The copy is made by SQLite (https://sqlite.org/backup.html): it is the database at one moment, with what is still in the
log. A database is restored *into* its file, by one transaction, so that programs that have it open see the restored
data next, and no log is left beside another file.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from convstore.db.engine import Database, open_database
from convstore.db.schema_upgrade import state, upgrade_database
from convstore.errors import DatabaseUnavailable, InvalidInput, SchemaTooNew


def back_up(database: Database, target: Path) -> None:
    """Copy a SQLite database to a new file of mode 0600.

    Args:
        target: must not exist.

    Raises:
        InvalidInput: the database is not a SQLite file.
        DatabaseUnavailable: `target` exists or cannot be written, or the database cannot be read.
    """
    source = _get_file(database, _name_pg_dump(database, target))
    if not source.exists():
        raise DatabaseUnavailable(f"database {source}: no such file")
    _create(target)
    try:
        with _explained(target), database.engine.connect() as connection, closing(sqlite3.connect(target)) as copy:
            driver: Any = connection.connection.driver_connection
            driver.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
            _check_pages(copy, target)
        _flush(target)
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise


def restore(database: Database, source: Path) -> Path | None:
    """Replace all data of a SQLite database by those of a backup, in one transaction.

    The data before are copied to a new file beside the database first. A backup of an older schema is upgraded. Turns
    that run meanwhile end with an error that has their reply, because the restored database does not know them.

    Returns:
        The file with the data before, or None if there was no database.

    Raises:
        InvalidInput: the database is not a SQLite file.
        DatabaseUnavailable: the backup is not a database of convstore, is damaged, or cannot be read.
        SchemaTooNew: a newer release made the backup.
    """
    target = _get_file(database, _name_pg_restore(database, source))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convstore-restore-") as folder:
        ready = Path(folder, "ready.db")
        _make_ready(source, ready)
        kept = _keep_present(database, target)
        with _explained(target), closing(sqlite3.connect(ready)) as copy, database.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            size = int(driver.execute("PRAGMA page_size").fetchone()[0])
            if size != int(copy.execute("PRAGMA page_size").fetchone()[0]):
                copy.execute(f"PRAGMA page_size = {size}")  # a log cannot hold pages of another size
                copy.execute("VACUUM")
            copy.backup(driver)
            driver.execute("PRAGMA journal_mode = WAL")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return kept


def _get_file(database: Database, instead: str) -> Path:
    """Return the file of a SQLite database.

    Args:
        instead: the command for a database on a PostgreSQL server.
    """
    if database.path is not None:
        return database.path
    if database.is_sqlite:
        raise InvalidInput("the database is in memory; only SQLite files are copied")
    raise InvalidInput(f"the database is on a PostgreSQL server, which has its own tools: {instead}")


def _name_pg_dump(database: Database, file: Path) -> str:
    tables = "convstore_*"
    if database.given_schema is not None:
        tables = f"{database.engine.dialect.identifier_preparer.quote(database.given_schema)}.{tables}"
    parts = ("pg_dump", "--format=custom", f"--table={tables}", f"--file={file}", f"--dbname={_name_server(database)}")
    return shlex.join(parts)


def _name_pg_restore(database: Database, file: Path) -> str:
    parts = ("pg_restore", "--clean", "--if-exists", "--single-transaction", f"--dbname={_name_server(database)}")
    return shlex.join((*parts, str(file)))


def _name_server(database: Database) -> str:
    """Return the URL of a PostgreSQL database as its tools take it, without a password."""
    url = database.engine.url.difference_update_query(("password", "sslpassword"))
    return URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query).render_as_string()


def _make_ready(source: Path, ready: Path) -> None:
    """Copy a backup to the file `ready`, check it, and upgrade its schema."""
    if not source.is_file():
        raise DatabaseUnavailable(f"backup {source}: no such file")
    _create(ready)
    with (
        _explained(source),
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as backup,
        closing(sqlite3.connect(ready)) as copy,
    ):
        backup.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        _check_pages(copy, source)
    opened = open_database(str(ready))
    try:
        if state(opened).current is None:
            raise DatabaseUnavailable(f"backup {source}: is not a database of convstore")
        upgrade_database(opened)
    except SchemaTooNew as error:
        raise SchemaTooNew(str(error).replace(opened.label, str(source))) from None
    finally:
        opened.close()
    with closing(sqlite3.connect(ready)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")


def _keep_present(database: Database, target: Path) -> Path | None:
    if not target.exists() or target.stat().st_size == 0:
        return None
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    kept = target.with_name(f"{target.name}.before-restore-{moment}")
    try:
        back_up(database, kept)
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(
            f"{error}; nothing was changed: move {target} and its log away, and restore again"
        ) from None
    return kept


def _create(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise DatabaseUnavailable(f"{path} exists already; choose another name") from None
    except OSError as error:
        raise DatabaseUnavailable(f"{path}: {error.strerror or error}") from error


def _check_pages(copy: sqlite3.Connection, name: Path) -> None:
    problem = str(copy.execute("PRAGMA quick_check(1)").fetchone()[0])
    if problem != "ok":
        raise DatabaseUnavailable(f"{name} is damaged: {' '.join(problem.split())}")


def _flush(path: Path) -> None:
    """Write a file and its name to the disk."""
    for one in (path, path.absolute().parent):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise DatabaseUnavailable(f"{path}: {error}") from error
