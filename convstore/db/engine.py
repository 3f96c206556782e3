"""Engines, transactions, and what differs between SQLite and PostgreSQL.

SQLite opens in WAL with `synchronous=FULL` (an acknowledged message survives a power cut) and its writes begin with
`BEGIN IMMEDIATE`: a transaction that reads first and writes later could otherwise fail half-way, whatever the busy
timeout, because another writer came in between (https://sqlite.org/lang_transaction.html).
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Engine,
    Pool,
    PoolProxiedConnection,
    create_engine,
    event,
    exc,
    func,
    true,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType

from convstore.errors import DatabaseUnavailable, InvalidInput

_SQLITE_BUSY_SECONDS = 30.0
_NOT_A_URL = "not a database URL (such as sqlite:///chat.db, sqlite:////home/me/chat.db or postgresql://user@host/name)"

EVERYTHING = 2**62
"""A limit that limits nothing: one statement serves with and without."""

_creation = threading.Lock()
_locked = threading.local()


class Database:
    """An engine seen through convstore's transactions. Safe to share between threads."""

    def __init__(self, engine: Engine, *, owned: bool) -> None:
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.path = _sqlite_file(engine.url) if self.is_sqlite else None
        """The file of a SQLite database; None where it is in memory."""
        self._owned = owned
        _check_backend(engine.dialect.name)
        if engine.dialect.is_async:
            raise InvalidInput(f"{engine.dialect.driver} is asynchronous: name a driver that is not, such as psycopg")
        if owned and (self.path is not None or not self.is_sqlite):
            _open.add(self)

    @property
    def label(self) -> str:
        """How messages to people name this database: the file, or the URL without its password."""
        url = self.engine.url
        if self.is_sqlite:
            return url.database or ":memory:"
        return url.difference_update_query(("password", "sslpassword")).render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One read transaction: everything read in it is of one moment."""
        with self._translated(), self.engine.connect() as connection, transaction(connection, writes=False):
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction, committed at the end of the block and rolled back if it raises."""
        with self._translated(), self.engine.connect() as connection, transaction(connection, writes=True):
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise  # a constraint did its work; whoever wrote the statement knows what that means
        except (exc.DBAPIError, exc.TimeoutError) as error:
            raise DatabaseUnavailable(
                f"database {self.label}: {_reason(error)}", transient=self._is_transient(error)
            ) from error

    def _is_transient(self, error: exc.SQLAlchemyError) -> bool:
        if self.is_sqlite:
            return False  # its busy timeout has waited already
        if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
            return True
        state = getattr(getattr(error, "orig", None), "sqlstate", None)
        # A connection that could not be made has no state, or one of class 57P (the server stops, or is starting).
        # https://www.postgresql.org/docs/current/errcodes-appendix.html
        return isinstance(error, exc.OperationalError) and (
            state is None or state in ("40001", "40P01", "55P03") or state.startswith(("57P", "08"))
        )

    def close(self) -> None:
        """Close the pool's connections, unless the engine is the caller's own."""
        if self._owned:
            self.engine.dispose()


_open: weakref.WeakSet[Database] = weakref.WeakSet()
_inherited: list[Pool] = []


def _forget_connections() -> None:
    # A connection serves one process. A forked child opens its own, and never closes its parent's:
    # https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
    global _creation  # noqa: PLW0603 (another thread of the parent may hold it for ever)
    _creation = threading.Lock()
    for database in list(_open):
        _inherited.append(database.engine.pool)
        database.engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)


def open_database(url: str) -> Database:
    """Open (for SQLite: create, mode 0600) the database that `url` names. Nothing is connected before the first use.

    Args:
        url: a SQLAlchemy URL, or the path of a SQLite file. `postgres://` and `postgresql://` mean psycopg 3.

    Raises:
        InvalidInput: not a URL of SQLite or PostgreSQL.
        DatabaseUnavailable: the driver is not installed.
    """
    parsed = parse_url(url)
    _check_backend(parsed.get_backend_name())
    try:
        if parsed.get_backend_name() == "sqlite":
            return Database(_sqlite_engine(parsed), owned=True)
        engine = create_engine(parsed, connect_args=_postgres_arguments(parsed))
        return Database(engine, owned=True)
    except exc.NoSuchModuleError:
        raise InvalidInput(f"no such kind of database: {parsed.drivername}") from None
    except ImportError:
        if parsed.get_driver_name() != "psycopg":
            raise DatabaseUnavailable(f"the driver of {parsed.drivername} is not installed") from None
        raise DatabaseUnavailable("PostgreSQL needs the driver psycopg: pip install 'convstore[postgres]'") from None
    except (exc.ArgumentError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(_NOT_A_URL) from None  # without the reason: it may quote a password


def _check_backend(name: str) -> None:
    if name not in ("sqlite", "postgresql"):
        raise InvalidInput(f"convstore keeps conversations in SQLite or PostgreSQL, not in {name}")


def parse_url(url: str) -> URL:
    """Return the URL of a database named by a URL or by a file's path.

    Raises:
        InvalidInput: it is neither.
    """
    if not url.strip() or "\0" in url:
        raise InvalidInput("not a database: it has no name, or a NUL in it")
    if not re.match(r"[\w+.-]*://", url):
        return URL.create("sqlite", database=url)
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise InvalidInput(_NOT_A_URL) from None
    if "@" in (parsed.host or ""):  # and what stands before it would be shown as the host
        raise InvalidInput("not a database URL: write @ in a password as %40")
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _sqlite_file(url: URL) -> Path | None:
    """Return the file that a SQLite URL names, also by a `file:` URI; None where the database is in memory."""
    (name,), options = url.get_dialect()().create_connect_args(url)
    if options.get("uri") and name.startswith("file:"):
        uri = urlsplit(name)
        if "memory" in parse_qs(uri.query).get("mode", ()):
            return None
        name = unquote(uri.path)
    # Absolute, as the driver's is: the working directory may change.
    return Path(name).absolute() if name and name != ":memory:" else None


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
        folder = os.open(os.path.realpath(path.parent), os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DatabaseUnavailable(f"database {path}: {error.strerror or error}") from error
    try:
        with suppress(OSError):  # a file system without locks: SQLite's own still hold for the upgrade
            fcntl.flock(folder, fcntl.LOCK_EX)
        _locked.by_this_thread = True
        yield
    finally:
        _locked.by_this_thread = False
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)  # a child forked meanwhile has a copy of the descriptor
        os.close(folder)


def _postgres_arguments(url: URL) -> dict[str, Any]:
    # Behind PgBouncer in transaction mode a prepared statement may be another connection's.
    return {"prepare_threshold": None} if url.get_driver_name() == "psycopg" else {}


def _sqlite_engine(url: URL) -> Engine:
    arguments: dict[str, Any] = {"timeout": _SQLITE_BUSY_SECONDS, "check_same_thread": False}
    path = _sqlite_file(url)
    if path is None:
        # One connection, used by one thread at a time: a second would be another, empty database.
        from sqlalchemy.pool import QueuePool

        engine = create_engine(
            url, connect_args=arguments, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=60
        )
    else:
        engine = create_engine(url, connect_args=arguments)
    private = path is not None and not (url.database or "").startswith("file:")  # a URI may say mode=ro
    was_there = False

    @event.listens_for(engine, "invalidate")
    def roll_back(connection: sqlite3.Connection, *_: object) -> None:
        # After Ctrl-C in mid-statement. Closed with an open cursor, the connection would keep its lock until that is
        # collected: https://sqlite.org/c3ref/close.html
        with suppress(sqlite3.Error):
            connection.rollback()

    @event.listens_for(engine, "do_connect")
    def create_file(*_: object) -> None:
        if path is not None and was_there:
            _identity(path)
        elif path is not None and private:
            _create_private(path)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        nonlocal was_there
        try:
            _prepare_sqlite(connection, path)
            if path is not None:
                entry.info["file"] = _identity(path)
                was_there = True
        except BaseException:
            connection.close()
            raise

    @event.listens_for(engine, "checkout")
    def check_file(_: object, entry: ConnectionPoolEntry, __: PoolProxiedConnection) -> None:
        # In WAL mode SQLite goes on writing to a file that was removed or replaced, where nobody will find it.
        if path is not None and entry.info["file"] != _identity(path):
            raise exc.DisconnectionError("the file was replaced")  # the pool opens the new one

    return engine


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise DatabaseUnavailable(f"database {path}: its file is gone ({error.strerror or error})") from error
    return found.st_dev, found.st_ino


def _prepare_sqlite(connection: sqlite3.Connection, path: Path | None) -> None:
    connection.isolation_level = None  # transactions begin where convstore says, and nowhere else
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    if path is not None and _journal_mode(connection) != "wal":
        # Switching fails, timeout or not, when several processes race. It may fail still: the file is read-only, or
        # another program reads it now, which is not waited for. All promises hold in the other modes too.
        with file_lock(path):
            if _journal_mode(connection) != "wal":
                connection.execute("PRAGMA busy_timeout = 0")
                with suppress(sqlite3.OperationalError):
                    connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_SECONDS * 1000:.0f}")


def _journal_mode(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def _create_private(path: Path) -> None:
    """Create the file with mode 0600 before SQLite would create it with the user's umask."""
    # It exists, or cannot be made: then SQLite says so, in its own words. One thread at a time: another could lock the
    # new file through SQLite before it is closed here, and closing it drops those locks.
    with _creation, suppress(OSError):
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


@contextmanager
def transaction(connection: Connection, *, writes: bool) -> Iterator[None]:
    """One transaction, whatever the engine's own habits are: it may be the caller's, who begins in another way."""
    if connection.dialect.name != "sqlite":
        # What is read is of one moment. What is written sees what others have just written.
        connection.execution_options(isolation_level="READ COMMITTED" if writes else "REPEATABLE READ")
        with connection.begin():
            yield
        return
    with connection.begin():
        # Explicit, because sqlite3 would begin (deferred) only before the first write.
        begun = getattr(connection.connection.driver_connection, "in_transaction", False)
        if writes:
            if begun:
                connection.exec_driver_sql("ROLLBACK")  # of nothing: an engine's own BEGIN, which does not lock
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif not begun:
            connection.exec_driver_sql("BEGIN")
        yield


def waits_briefly(dialect: str) -> tuple[ColumnElement[bool], ...]:
    """Return a condition, always true: the transaction then waits for nobody's lock for longer than three seconds.

    It goes into a statement that is made anyway, so that it costs no journey to the server; and never into one that
    may run in a caller's own transaction, whose patience is the caller's. SQLite waits as long as its busy timeout.
    """
    if dialect == "sqlite":
        return ()
    return (func.set_config("lock_timeout", "3s", true()).is_not(None),)


class few(FunctionElement[bool]):  # noqa: N801 (used as a function, as are SQLAlchemy's own)
    """A condition on the rows of a recursive query, which says that they are few.

    SQLite takes a recursive query's rows for a million. It then reads all of a conversation rather than look a few of
    its messages up: to join them in the order that is asked for, and once it has statistics (`ANALYZE`), to build a
    Bloom filter over them. It believes what `likelihood` says (sqlite.org, "Built-in scalar functions").
    """

    name = "few"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: OperatorType | None = None) -> few:  # noqa: ARG002
        return self  # else it would be compared with 1, and SQLite not see what it says


@compiles(few)
def _few(element: few, compiler: SQLCompiler, **how: Any) -> str:
    return f"({compiler.process(element.clauses, **how)})"


@compiles(few, "sqlite")
def _few_on_sqlite(element: few, compiler: SQLCompiler, **how: Any) -> str:
    return f"likelihood({compiler.process(element.clauses, **how)}, 0.000001)"


def _reason(error: exc.SQLAlchemyError) -> str:
    origin = getattr(error, "orig", None)
    text = str(origin or error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    if "file is not a database" in reason:
        return "is not a SQLite database"
    if "database is locked" in reason:
        return f"another program kept it locked for {_SQLITE_BUSY_SECONDS:.0f} seconds; try again"
    return reason
