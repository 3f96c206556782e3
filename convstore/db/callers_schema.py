"""Bind a caller's connection to the schema of a store while a unit of work runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from convstore.db.engine import Database
from convstore.db.postgres_schema import bound_to_schema, find_bound_schema, read_current_schema


class CallersSchema:
    """The schema of a store's tables on a caller's connection.

    Args:
        database: the store's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: str | None = None

    @contextmanager
    def bound(self, connection: Connection) -> Iterator[None]:
        """Bind a connection to the schema within the block.

        Raises:
            DatabaseUnavailable: neither the store nor the connection names a schema that exists.
        """
        if connection.dialect.name == "sqlite":
            yield
            return
        with bound_to_schema(connection, self._choose(connection)):
            yield

    def _choose(self, connection: Connection) -> str:
        database = self._database
        chosen = database.given_schema or find_bound_schema(connection.get_execution_options())
        if chosen is None and _is_same_database(connection.engine, database.engine):
            chosen = database.schema
        if chosen is None:
            # Read once, so that a search path that changes within the transaction changes nothing.
            chosen = self._found = self._found or read_current_schema(connection)
        return chosen


def _is_same_database(one: Engine, other: Engine) -> bool:
    def name(url: URL) -> tuple[object, ...]:  # the driver may differ: an asynchronous one has no store of its own
        return url.get_backend_name(), url.username, url.host, url.port, url.database, url.query

    return one.pool is other.pool or name(one.url) == name(other.url)
