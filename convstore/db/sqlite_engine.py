"""Open SQLite database files.

A new file has mode 0600. A file is set to WAL mode, under a lock. A file that was removed or replaced is noticed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sqlalchemy import Engine, PoolProxiedConnection, create_engine, event, exc
from sqlalchemy.engine import URL
from sqlalchemy.pool import ConnectionPoolEntry

from convstore.db.sqlite_log import LOG_LIMIT_BYTES
from convstore.db.sqlite_log_mark import check_log, find_file_identity, find_files, write_mark
from convstore.db.sqlite_read_only import find_version, make_log_writable, prepare_reading
from convstore.errors import DatabaseUnavailable

SQLITE_BUSY_SECONDS = 30.0

_creation = threading.Lock()
_locked = threading.local()


def find_sqlite_file(url: URL) -> Path | None:
    """Return the file that a SQLite URL names, or None if the database is in memory.

    The URL may hold a `file:` URI.
    """
    (name,), options = url.get_dialect()().create_connect_args(url)
    if options.get("uri") and name.startswith("file:"):
        uri = urlsplit(name)
        if "memory" in parse_qs(uri.query).get("mode", ()):
            return None
        name = unquote(uri.path)
    # Absolute, as the driver's own path is, because the working directory may change.
    return Path(name).absolute() if name and name != ":memory:" else None


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock for preparing the database file at `path`.

    One thread of one process holds it at a time, and may take it again while it holds it. The lock is on the folder, so
    that no lock file is left behind. It is not on the database file, because closing any descriptor of that file would
    drop SQLite's own locks (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    """
    if getattr(_locked, "by_this_thread", False):
        yield
        return
    try:
        folder = os.open(os.path.realpath(path.parent), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError as error:
        raise DatabaseUnavailable(f"database {path}: its folder does not exist") from error
    except OSError as error:
        raise DatabaseUnavailable(f"database {path}: {error.strerror or error}") from error
    try:
        with suppress(OSError):  # the file system may have no such locks; SQLite's own still protect the upgrade
            fcntl.flock(folder, fcntl.LOCK_EX)
        _locked.by_this_thread = True
        yield
    finally:
        _locked.by_this_thread = False
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)  # closing is not enough if a forked child has a copy of the descriptor
        os.close(folder)


def make_sqlite_engine(url: URL) -> Engine:
    arguments: dict[str, Any] = {"timeout": SQLITE_BUSY_SECONDS, "check_same_thread": False}
    path = find_sqlite_file(url)
    if path is None:
        # One connection, used by one thread at a time, because a second one would open another, empty database.
        from sqlalchemy.pool import QueuePool

        engine = create_engine(
            url, connect_args=arguments, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=60
        )
    else:
        engine = create_engine(url, connect_args=arguments)
    private = path is not None and not (url.database or "").startswith("file:")  # a URI may say mode=ro
    was_there = False
    opening = threading.local()

    @event.listens_for(engine, "invalidate")
    def roll_back(connection: sqlite3.Connection, *_: object) -> None:
        # Ctrl-C may come in the middle of a statement. A connection that is closed with an open cursor keeps its lock
        # until the cursor is garbage-collected: https://sqlite.org/c3ref/close.html
        with suppress(sqlite3.Error):
            connection.rollback()

    @event.listens_for(engine, "do_connect")
    def create_file(_: object, __: object, ___: object, options: dict[str, Any]) -> sqlite3.Connection | None:
        if path is None:
            return None
        if not was_there and private:
            _create_private(path)
        # Known before SQLite opens it: if it is replaced afterwards, the connection is to the file before.
        opening.file = identify_file(path) if was_there else find_file_identity(path)
        check_log(path)
        opening.version = None
        if not private or not prepare_reading(path):
            return None
        opening.version = find_version(path)
        # Not by other arguments: SQLAlchemy 2.0 would keep them for the connections after this one.
        connection: sqlite3.Connection = sqlite3.connect(f"{path.as_uri()}?immutable=1", **{**options, "uri": True})
        return connection

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        nonlocal was_there
        try:
            _prepare_sqlite(connection, path)
            if path is not None:
                entry.info["file"] = opening.file or identify_file(path)
                entry.info["version"] = opening.version
                entry.info["log"] = str(find_files(path).log)
                was_there = True
                make_log_writable(path)
                write_mark(path, entry.info["file"])
        except BaseException:
            connection.close()
            raise

    @event.listens_for(engine, "checkout")
    def check_file(_: object, entry: ConnectionPoolEntry, __: PoolProxiedConnection) -> None:
        # In WAL mode SQLite continues to write to a file that was removed or replaced, and the rows would be lost.
        if path is None:
            return
        if entry.info["file"] != identify_file(path):
            raise exc.DisconnectionError("the file was replaced")  # the pool opens the new one
        version = entry.info["version"]
        if version is not None and version != find_version(path):
            raise exc.DisconnectionError("the file was written")  # SQLite would not notice it

    return engine


def identify_file(path: Path) -> tuple[int, int]:
    """Return the device and inode of a database file.

    Raises:
        DatabaseUnavailable: there is no such file.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 (four times in a turn, and faster than `path.stat`)
    except OSError as error:
        raise DatabaseUnavailable(f"database {path}: its file was removed ({error.strerror or error})") from error
    return found.st_dev, found.st_ino


def _prepare_sqlite(connection: sqlite3.Connection, path: Path | None) -> None:
    connection.isolation_level = None  # so that sqlite3 begins no transactions itself
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
    connection.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT_BYTES}")
    if path is None:
        return
    if _read_journal_mode(connection) != "wal":
        # The switch to WAL fails if several processes try it at once, whatever the timeout; hence the lock. It may
        # still fail because the file is read-only, or because another program is reading it. Then the old mode stays:
        # all guarantees hold in the other modes too.
        with file_lock(path):
            if _read_journal_mode(connection) != "wal":
                connection.execute("PRAGMA busy_timeout = 0")
                with suppress(sqlite3.OperationalError):
                    connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_SECONDS * 1000:.0f}")
    connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()  # makes SQLite open its log


def _read_journal_mode(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def _create_private(path: Path) -> None:
    """Create the file with mode 0600, because SQLite would use the user's umask."""
    # If the file exists, nothing happens; if it cannot be created, SQLite reports the error. One thread at a time does
    # this: another thread's SQLite could lock the new file before it is closed here, and closing drops such locks.
    with _creation, suppress(OSError):
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def renew_locks_after_fork() -> None:
    """Replace the lock in a forked child.

    A thread of the parent may have held it, and no thread of the child would ever release it.
    """
    global _creation  # noqa: PLW0603
    _creation = threading.Lock()
