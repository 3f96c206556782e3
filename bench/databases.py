"""Make three equal copies of a filled database: one to record on, one for the store, one for the driver."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from bench.model import FakeClient
from convstore import Store
from convstore.db.schema_upgrade import upgrade
from tests.postgres import new_database

Fill = Callable[[Store], None]


@dataclass(frozen=True, slots=True)
class Copies:
    """A backend, and its copies as SQLAlchemy URLs."""

    backend: str
    driver: str
    recorded: str
    timed: str
    bare: str
    connect: Callable[[str], Any]
    """Open a copy with the bare driver, with the settings of the store."""

    def store(self, url: str) -> Store:
        return Store(url, client=FakeClient())  # type: ignore[arg-type]


@contextmanager
def sqlite_copies(folder: Path, fill: Fill) -> Iterator[Copies]:
    base = folder / "base.db"
    with Store(base, client=FakeClient()) as store:  # type: ignore[arg-type]
        fill(store)
    paths = [folder / f"{name}.db" for name in ("recorded", "timed", "bare")]
    for path in paths:
        shutil.copy(base, path)
    recorded, timed, bare = (f"sqlite:///{path}" for path in paths)
    yield Copies("SQLite", "sqlite3", recorded, timed, bare, connect_sqlite)


@contextmanager
def postgres_copies(server: str, fill: Fill) -> Iterator[Copies]:
    with ExitStack() as stack:
        base = stack.enter_context(new_database(server))
        upgrade(base)
        with Store(base, client=FakeClient()) as store:  # type: ignore[arg-type]
            fill(store)
        # Otherwise the server gathers statistics in the middle of a run, and changes its plans.
        with closing(connect_postgres(base)) as connection:
            connection.autocommit = True
            connection.execute("VACUUM ANALYZE")
        name = make_url(base).database or ""
        recorded, timed, bare = (stack.enter_context(new_database(server, name)) for _ in range(3))
        yield Copies("PostgreSQL", "psycopg", recorded, timed, bare, connect_postgres)


def connect_sqlite(url: str) -> sqlite3.Connection:
    connection = sqlite3.connect(make_url(url).database or "", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")  # the file itself says that it is in WAL mode
    return connection


def connect_postgres(url: str) -> psycopg.Connection[Any]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, prepare_threshold=None)
