"""Open databases and transactions of SQLite and PostgreSQL.

SQLite runs in WAL mode with `synchronous=FULL`, so that an acknowledged message survives a power cut. Its write
transactions begin with `BEGIN IMMEDIATE`. A transaction that reads first and writes later could otherwise fail at its
first write, because another writer was faster; the busy timeout does not help then
(https://sqlite.org/lang_transaction.html).
"""

from __future__ import annotations

import os
import re
import sqlite3
import weakref
from collections.abc import Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sqlalchemy
from sqlalchemy import Engine, Pool, create_engine, event, exc
from sqlalchemy.engine import URL, make_url

from convstore.db.connection import Connection, Statements, find_statements
from convstore.db.postgres_schema import (
    bind_schema,
    check_has_schemas,
    check_schema_name,
    find_bound_schema,
    take_schema,
)
from convstore.db.sqlite_engine import (
    SQLITE_BUSY_SECONDS,
    find_sqlite_file,
    identify_file,
    make_sqlite_engine,
    renew_locks_after_fork,
)
from convstore.db.sqlite_log import LogState, LogWatch, copy_log, measure_log
from convstore.db.sqlite_log_mark import find_file_identity, remove_mark
from convstore.db.sqlite_read_only import find_obstacle, find_version
from convstore.errors import DatabaseUnavailable, InvalidInput

# Connection strings of other programs, and URLs in quotes or with a typing error. If one became the name of a new file,
# the password in it would be visible in the file system.
_LIKE_A_URL = re.compile(
    r"""^[\s'"] | :// | ^(jdbc:)?(postgres(ql)?|psql|mysql|mariadb|mssql|sqlserver|oracle|sqlite3?)(\+\w+)?(:|//)
    | \b(host|hostaddr|dbname|password|passfile|sslmode)\s*= | ^(?!\.{0,2}/)[^/\s]+:[^/\s]*@""",
    re.VERBOSE | re.IGNORECASE,
)
_UNDECODABLE = "Could not decode to UTF-8"
_FILE_ERRORS = ("attempt to write a readonly database", "unable to open database file")
_NOT_A_URL = (
    "not a database URL (such as sqlite:///chat.db, sqlite:////home/me/chat.db or postgresql://user@host/name), nor "
    "the path of a SQLite file"
)


class Database:
    """An engine, with convstore's transactions. Threads may share it.

    Args:
        engine: the engine; a caller's own is not changed.
        owned: whether `close` closes the engine's connections.
        schema: the PostgreSQL schema that has the tables. None: the one that the engine's `schema_translate_map` names,
            else the current one at the first use.
    """

    def __init__(self, engine: Engine, *, owned: bool, schema: str | None = None) -> None:
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.path = find_sqlite_file(engine.url) if self.is_sqlite else None
        """The file of a SQLite database; None if it is in memory."""
        self._owned = owned
        self._statements: Statements | None = None
        self._name = self._make_name()
        self._log_watch = LogWatch(self.path) if self.path is not None else None
        _check_backend(engine.dialect.name)
        if engine.dialect.is_async:
            raise InvalidInput(f"the driver {engine.dialect.driver!r} is asynchronous: use a sync one, such as psycopg")
        if schema is not None:
            check_has_schemas(engine.dialect.name)
        elif not self.is_sqlite:
            schema = find_bound_schema(engine.get_execution_options())
        self.given_schema = check_schema_name(schema) if schema is not None else None
        """The PostgreSQL schema that the caller named."""
        self.schema = self.given_schema
        """The PostgreSQL schema of all statements; None until `keep_schema`, and on SQLite."""
        if owned and (self.path is not None or not self.is_sqlite):
            _open.add(self)

    def _make_name(self) -> Hashable:
        """Return what names the database in this process, without its schema; made once, because it takes long."""
        if not self.is_sqlite:
            return self.engine.url.set(password=None).render_as_string()
        return os.path.realpath(self.path) if self.path is not None else object()

    @property
    def identity(self) -> Hashable:
        """The database, for comparing: equal for all that use the same tables in this process.

        Before the first use on PostgreSQL, the schema is the one that another `Database` with this URL has found.
        """
        if self.is_sqlite:
            return self._name
        return self._name, self.schema or _current_schemas.get(self._name)

    def keep_schema(self, schema: str | None) -> None:
        """Use the schema that was found at the first use, from now on, unless the caller named one."""
        if self.schema is None and schema is not None:
            self.schema = _current_schemas[self._name] = schema

    @property
    def label(self) -> str:
        """The name of the database in messages: the file, or the URL without its password, with a schema if given."""
        url = self.engine.url
        if self.is_sqlite:
            return url.database or ":memory:"
        if self.given_schema is not None:
            url = url.update_query_dict({"schema": self.given_schema})
        return url.difference_update_query(("password", "sslpassword")).render_as_string(hide_password=True)

    def read(self, *, keeps_bytes: bool = False) -> AbstractContextManager[Connection]:
        """Open a read transaction, which sees the database as it was at one moment.

        Args:
            keeps_bytes: whether a text that is not UTF-8 is returned as bytes, so that an error can name its row.
        """
        return self._open(writes=False, keeps_bytes=keeps_bytes)

    def write(self, *, keeps_bytes: bool = False) -> AbstractContextManager[Connection]:
        """Open a write transaction.

        It is committed at the end of the block, and rolled back if the block raises an error.

        Args:
            keeps_bytes: as for `read`.
        """
        return self._open(writes=True, keeps_bytes=keeps_bytes)

    @contextmanager
    def _open(self, *, writes: bool, keeps_bytes: bool) -> Iterator[Connection]:
        kept = _keep_bytes if keeps_bytes and self.is_sqlite else nullcontext
        with self._translated(), self.engine.connect() as plain:
            if self.schema is not None:
                bind_schema(plain, self.schema)
            info = plain.info
            # Kept here, because all databases of one kind and schema share them as long as one of them needs them.
            self._statements = find_statements(self.engine, self.schema) if self._owned else None
            connection = Connection(plain, self._statements)
            with transaction(connection, writes=writes), kept(plain):
                yield connection
        version = info.get("version")
        if version is not None and self.path is not None and version != find_version(self.path):
            raise DatabaseUnavailable(f"database {self.path}: it was written while it was read; try again")
        if writes:
            self._check_still_there(info)

    def _check_still_there(self, info: Mapping[str, Any]) -> None:
        """Check that the file that was just written still has its name; otherwise others do not see what was written.

        Args:
            info: the `info` of the connection that wrote.

        Raises:
            DatabaseUnavailable: the file was removed or replaced meanwhile.
        """
        file = info.get("file")
        if file is None or self.path is None:
            return
        if identify_file(self.path) != file:
            raise DatabaseUnavailable(f"database {self.path}: its file was replaced while it was written")
        if self._log_watch is not None:
            self._log_watch.check(info["log"])

    def copy_log(self, *, shrink: bool = False) -> LogState | None:
        """Copy the log of a SQLite file into the database, as far as no reader needs it. Nothing is waited for.

        Args:
            shrink: whether the log is cut to nothing if all of it was copied.

        Returns:
            What is left, or None if the database is no SQLite file.
        """
        if self.path is None or find_file_identity(self.path) is None:
            return None
        with self._translated(), self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            try:
                return copy_log(driver, self.path, shrink=shrink)
            except sqlite3.Error as error:
                raise DatabaseUnavailable(f"database {self.path}: its log cannot be copied ({error})") from error

    def shrink_idle_log(self) -> None:
        """Give back the space of the log while nothing is written."""
        if self._log_watch is not None and self.path is not None and measure_log(self.path) > 0:
            self.copy_log(shrink=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise  # the caller that wrote the statement knows what the constraint means
        except (exc.DBAPIError, exc.TimeoutError) as error:
            raise DatabaseUnavailable(
                f"database {self.label}: {self._explain(error)}", transient=self._is_transient(error)
            ) from error
        except UnicodeDecodeError as error:
            if not _is_from_driver(error):
                raise
            raise DatabaseUnavailable(f"database {self.label}: is damaged: restore it from a backup") from error

    def _explain(self, error: exc.SQLAlchemyError) -> str:
        reason = _explain(error)
        if self.path is not None and reason in _FILE_ERRORS:
            if self.path.is_dir():
                return "it is a folder; name a file in it"
            obstacle = find_obstacle(self.path)
            return f"{reason}: {obstacle}" if obstacle is not None else reason
        return reason

    def _is_transient(self, error: exc.SQLAlchemyError) -> bool:
        if self.is_sqlite:
            return False  # its busy timeout has waited already
        if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
            return True
        state = getattr(getattr(error, "orig", None), "sqlstate", None)
        # If a connection cannot be made, the error has no state, or one of class 57P (the server stops or starts).
        # https://www.postgresql.org/docs/current/errcodes-appendix.html
        return isinstance(error, exc.OperationalError) and (
            state is None or state in ("40001", "40P01", "55P03") or state.startswith(("57P", "08"))
        )

    def close(self) -> None:
        """Close the pool's connections, unless the engine is the caller's own."""
        if self._owned:
            self.engine.dispose()
            if self.path is not None:
                remove_mark(self.path)


@contextmanager
def _keep_bytes(connection: sqlalchemy.Connection) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    before, driver.text_factory = driver.text_factory, _decode_or_keep
    try:
        yield
    finally:
        driver.text_factory = before


def _decode_or_keep(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def is_undecodable_text(error: DatabaseUnavailable) -> bool:
    """Return True if SQLite found a text that is not UTF-8."""
    return _UNDECODABLE in str(getattr(error.__cause__, "orig", ""))


_current_schemas: dict[Hashable, str] = {}
"""The current schema, by the name of the database, as it was last found."""

_open: weakref.WeakSet[Database] = weakref.WeakSet()
_inherited: list[Pool] = []


def _forget_connections() -> None:
    # A connection serves one process. A forked child opens its own connections, and never closes those of its parent:
    # https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
    renew_locks_after_fork()
    for database in list(_open):
        _inherited.append(database.engine.pool)
        database.engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)


def open_database(url: str, schema: str | None = None) -> Database:
    """Open the database that `url` names.

    The first use connects, and creates a missing SQLite file with mode 0600.

    Args:
        url: a SQLAlchemy URL, or the path of a SQLite file. `postgres://` and `postgresql://` mean psycopg 3. Its
            `?schema=` means the same as `schema`.
        schema: the PostgreSQL schema that has the tables; None: the current one at the first use.

    Raises:
        InvalidInput: `url` is not a valid URL of SQLite or PostgreSQL, or `schema` no schema that it can have.
        DatabaseUnavailable: the driver is not installed.
    """
    parsed = parse_url(url)
    _check_backend(parsed.get_backend_name())
    parsed, schema = take_schema(parsed, schema)
    try:
        if parsed.get_backend_name() == "sqlite":
            return Database(make_sqlite_engine(parsed), owned=True)
        engine = create_engine(parsed, connect_args=_get_postgres_arguments(parsed))
        event.listen(engine, "connect", _prepare_postgres)
        return Database(engine, owned=True, schema=schema)
    except exc.NoSuchModuleError:
        raise InvalidInput(f"unknown kind of database {parsed.drivername!r}; use sqlite or postgresql") from None
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
        raise InvalidInput(f"convstore keeps conversations in SQLite or PostgreSQL, not in {name!r}")


def parse_url(url: str) -> URL:
    """Return the URL of a database.

    Args:
        url: a URL, or the path of a file.

    Raises:
        InvalidInput: `url` is neither.
    """
    if not url.strip() or "\0" in url:
        raise InvalidInput("not a database: its name is empty, or contains a NUL")
    if not re.match(r"[\w+.-]*://", url):
        if _LIKE_A_URL.search(url):
            raise InvalidInput(_NOT_A_URL)
        return URL.create("sqlite", database=url)
    if re.search(r"[?&]schema=?(&|$)", url):
        # SQLAlchemy drops such a part. The tables would then be looked for elsewhere, perhaps in another tenant's.
        raise InvalidInput("the name of the schema is empty")
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise InvalidInput(_NOT_A_URL) from None
    # If a password holds an unescaped `@`, a part of it is read as the host, the database or an option, which messages
    # show.
    shown = [parsed.host or "", *parsed.query]
    if parsed.get_backend_name() != "sqlite":
        shown.append(parsed.database or "")
    if any("@" in part for part in shown):
        raise InvalidInput("not a database URL: write @ in a password as %40")
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _get_postgres_arguments(url: URL) -> dict[str, Any]:
    if url.get_driver_name() != "psycopg":
        return {}
    # PgBouncer in transaction mode may run a prepared statement on a connection that does not have it. The server may
    # have another encoding for clients, which cannot hold every text.
    return {"prepare_threshold": None, "client_encoding": "utf8"}


def _prepare_postgres(connection: Any, _: object) -> None:
    """Set the ISO style of dates, where the server, the role or the environment set another one.

    The driver reads times only in this style. The server has told its style when the connection was made, so usually
    nothing is sent. PgBouncer keeps this setting for each of its clients.
    """
    read = getattr(getattr(connection, "info", None), "parameter_status", None)
    if read is None or (read("DateStyle") or "ISO").startswith("ISO"):
        return
    with connection.cursor() as cursor:
        cursor.execute("SET DateStyle TO 'ISO'")
    connection.commit()


@contextmanager
def transaction(connection: Connection, *, writes: bool) -> Iterator[None]:
    """Open a transaction, also on a caller's engine that begins transactions itself."""
    plain = connection.plain
    if connection.dialect.name != "sqlite":
        # All reads of a read transaction see the same moment. A write transaction sees what others commit meanwhile.
        plain.execution_options(isolation_level="READ COMMITTED" if writes else "REPEATABLE READ")
        with plain.begin():
            yield
        return
    with plain.begin():
        # sqlite3 would begin a transaction only before the first write, and without a lock.
        begun = getattr(plain.connection.driver_connection, "in_transaction", False)
        if writes:
            if begun:
                connection.run("ROLLBACK")  # of the engine's own BEGIN, which takes no lock
            connection.run("BEGIN IMMEDIATE")
        elif not begun:
            connection.run("BEGIN")
        yield


def _is_from_driver(error: UnicodeDecodeError) -> bool:
    """Return True if sqlite3 raised an error because SQLite's own message quotes bytes of a damaged schema."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(place.tb_frame.f_globals["__name__"]).startswith(
        ("sqlalchemy.", "convstore.db.connection", "convstore.db.sqlite")
    )


def _explain(error: exc.SQLAlchemyError) -> str:
    origin = getattr(error, "orig", None)
    text = str(origin or error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    if _UNDECODABLE in reason:
        return "a text is not UTF-8"  # the driver's message quotes the text
    if "file is not a database" in reason:
        return "is not a SQLite database"
    if "database is locked" in reason:
        return f"another program kept it locked for {SQLITE_BUSY_SECONDS:.0f} seconds; try again"
    if getattr(origin, "sqlstate", None) == "55P03":  # lock_not_available
        return "another transaction held a lock for too long; try again when it has ended"
    return reason
