"""Engines, transactions, and what differs between SQLite and PostgreSQL.

SQLite opens in WAL with `synchronous=FULL` (an acknowledged message survives a power cut) and its writes begin with
`BEGIN IMMEDIATE`: a transaction that reads first and writes later could otherwise fail half-way, whatever the busy
timeout, because another writer came in between (https://sqlite.org/lang_transaction.html).
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

from sqlalchemy import Connection, Engine, Pool, create_engine, event, exc
from sqlalchemy.engine import URL, make_url

from convstore.errors import DatabaseUnavailable, InvalidInput

_SQLITE_BUSY_SECONDS = 30.0
_WRITES = "convstore_writes"  # execution option: this transaction will write

EVERYTHING = 2**62
"""A limit that limits nothing: one statement serves with and without."""

_parents_pools: list[Pool] = []
_creation = threading.Lock()
_locked = threading.local()


class Database:
    """An engine seen through convstore's transactions. Safe to share between threads."""

    def __init__(self, engine: Engine, *, owned: bool) -> None:
        # A view of the engine of its own: the listener below must not touch what else the caller does with it.
        self.engine = engine.execution_options()
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._owned = owned
        if engine.dialect.name not in ("sqlite", "postgresql"):
            raise InvalidInput(f"convstore keeps conversations in SQLite or PostgreSQL, not in {engine.dialect.name}")
        if self.is_sqlite:
            event.listen(self.engine, "begin", _begin_sqlite)

    @property
    def label(self) -> str:
        """How messages to people name this database: the file, or the URL without its password."""
        url = self.engine.url
        if self.is_sqlite:
            return url.database or ":memory:"
        return url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One read transaction: everything read in it is of one moment."""
        with self._translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction, committed at the end of the block and rolled back if it raises."""
        with self._translated(), self.engine.connect() as connection:
            will_write(connection)
            with connection.begin():
                yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise  # a constraint did its work; whoever wrote the statement knows what that means
        except (exc.DBAPIError, exc.TimeoutError) as error:
            raise DatabaseUnavailable(f"database {self.label}: {_reason(error)}") from error

    def after_fork(self) -> None:
        """Leave the connections to the parent process: a child must neither use nor close them."""
        if self._owned:
            _parents_pools.append(self.engine.pool)  # kept, because a pool that is forgotten closes its connections
            self.engine.dispose(close=False)

    def close(self) -> None:
        """Close the pool's connections, unless the engine is the caller's own."""
        if self._owned:
            self.engine.dispose()


def open_database(url: str) -> Database:
    """Open (for SQLite: create, mode 0600) the database that `url` names. Nothing is connected before the first use.

    Args:
        url: a SQLAlchemy URL, or the path of a SQLite file. `postgres://` and `postgresql://` mean psycopg 3.

    Raises:
        InvalidInput: not a URL of SQLite or PostgreSQL.
        DatabaseUnavailable: the driver is not installed.
    """
    parsed = parse_url(url)
    try:
        if parsed.get_backend_name() == "sqlite":
            return Database(_sqlite_engine(parsed), owned=True)
        engine = create_engine(parsed, pool_pre_ping=True, connect_args=_postgres_arguments(parsed))
        return Database(engine, owned=True)
    except exc.NoSuchModuleError:
        raise InvalidInput(f"no such kind of database: {parsed.drivername}") from None
    except ImportError:
        raise DatabaseUnavailable("PostgreSQL needs the driver psycopg: pip install 'convstore[postgres]'") from None


def parse_url(url: str) -> URL:
    """Return the URL of a database named by a URL or by a file's path.

    Raises:
        InvalidInput: it is neither.
    """
    if "://" not in url:
        if not url.strip() or "\0" in url:
            raise InvalidInput(f"not a database: {url!r}")
        return URL.create("sqlite", database=url)
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise InvalidInput("not a database URL (such as sqlite:///chat.db or postgresql://user@host/name)") from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def sqlite_path(engine: Engine) -> Path | None:
    """Return the file of a SQLite engine; None where the database is in memory, or named by a `file:` URI."""
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock between processes, and threads, that prepare the database file at `path`. Once in a thread is enough.

    The lock is on the folder, so that no lock file is left behind. It is not on the file: closing any descriptor of
    that would drop SQLite's own locks (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    """
    if getattr(_locked, "by_this_thread", False):
        yield
        return
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise DatabaseUnavailable(f"database {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        _locked.by_this_thread = True
        yield
    finally:
        _locked.by_this_thread = False
        os.close(folder)


def _postgres_arguments(url: URL) -> dict[str, Any]:
    # Behind PgBouncer in transaction mode a prepared statement may be another connection's.
    return {"prepare_threshold": None} if url.get_driver_name() == "psycopg" else {}


def _sqlite_engine(url: URL) -> Engine:
    arguments: dict[str, Any] = {"timeout": _SQLITE_BUSY_SECONDS, "check_same_thread": False}
    if not url.database or url.database == ":memory:":
        # One connection, used by one thread at a time: a second would be another, empty database.
        from sqlalchemy.pool import QueuePool

        engine = create_engine(
            url, connect_args=arguments, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=60
        )
    else:
        engine = create_engine(url, connect_args=arguments)
    path = sqlite_path(engine)

    @event.listens_for(engine, "do_connect")
    def create_file(*_: object) -> None:
        if path is not None:
            _create_private(path)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions begin where convstore says, and nowhere else
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        if path is not None and _journal_mode(connection) != "wal":
            # Switching fails at once, timeout or not, when several processes race.
            with file_lock(path):
                if _journal_mode(connection) != "wal":
                    connection.execute("PRAGMA journal_mode = WAL")

    return engine


def _journal_mode(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def _create_private(path: Path) -> None:
    """Create the file with mode 0600 before SQLite would create it with the user's umask."""
    # It exists, or cannot be made: then SQLite says so, in its own words.
    with _creation, suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def will_write(connection: Connection) -> None:
    """Let the next transaction of `connection` begin as one that writes."""
    connection.execution_options(**{_WRITES: True})


def _begin_sqlite(connection: Connection) -> None:
    # Explicit, because sqlite3 would begin (deferred) only before the first write.
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _reason(error: exc.SQLAlchemyError) -> str:
    origin = getattr(error, "orig", None)
    text = str(origin or error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    if "file is not a database" in reason:
        return "is not a SQLite database"
    if "database is locked" in reason:
        return f"another program kept it locked for {_SQLITE_BUSY_SECONDS:.0f} seconds; try again"
    return reason
