"""The databases of a soak: a SQLite file, and a PostgreSQL server that is stopped and started."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, select

from convstore.db.schema_upgrade import upgrade
from convstore.db.tables import metadata
from tests.faults.restartable import Restartable, restartable_server
from tests.soak.plan import Plan


@dataclass(frozen=True, slots=True)
class Database:
    """A database with convstore's schema, and the server behind it."""

    url: str
    server: Restartable | None = None

    def restart(self, seconds: float) -> None:
        """Stop the server as a power cut does, and start it again after some seconds."""
        assert self.server is not None
        self.server.stop()
        time.sleep(seconds)
        self.server.start()


@contextmanager
def open_database(plan: Plan) -> Iterator[Database]:
    """Yield a new database; its server, if it has one, ends with the block."""
    if plan.database == "sqlite":
        upgrade(plan.url_of_file)
        yield Database(plan.url_of_file)
        return
    with restartable_server() as server:
        upgrade(server.url)
        yield Database(server.url, server)


@contextmanager
def open_snapshots(url: str) -> Iterator[Engine]:
    """Yield an engine with connections that each see the database as it was at their first query."""
    if not url.startswith("sqlite"):
        engine = create_engine(url, isolation_level="REPEATABLE READ")
    else:
        engine = create_engine(url)

        # The driver would begin a transaction only before the first write.
        @event.listens_for(engine, "connect")
        def let_sqlalchemy_begin(connection: object, record: object) -> None:
            connection.isolation_level = None  # type: ignore[attr-defined]

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    try:
        yield engine
    finally:
        engine.dispose()


def write_rows(engine: Engine, path: Path) -> None:
    """Write every row into a file, for a database that ends with its server."""
    with path.open("w") as file, engine.connect() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(select(table)).mappings():
                file.write(json.dumps({"table": table.name, **row}, default=str) + "\n")
