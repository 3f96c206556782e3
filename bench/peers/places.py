"""Make the databases of the stores: files of SQLite, and databases of one PostgreSQL server."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from bench.peers.moved_clock import MovedClock
from bench.peers.peer_store import PeerStore, make_libpq_url
from demo.child import child
from tests.postgres import new_database

MARK, CHANGED_MARK = "zanzibar", "zanzibbr"
"""A word in one message, and what one changed letter makes of it."""
_WITH_TEXT = ("text", "character varying", "json", "jsonb", "bytea")


class Places:
    """Where stores have their databases.

    Args:
        folder: for SQLite's files and for logs.
        server: SQLAlchemy URL of a PostgreSQL server that is the bench's own: its settings are changed.
        clock: clock of the trials that move it.
        moved_server: URL of a PostgreSQL server that sees this clock.
    """

    def __init__(self, folder: Path, server: str, clock: MovedClock, moved_server: str) -> None:
        self._folder, self._server = folder, server
        self.clock, self._moved_server = clock, moved_server
        self._stack = ExitStack()
        self._number = 0
        self.log = folder / "log"

    def close(self) -> None:
        """Drop the databases; their folder belongs to the caller."""
        self._stack.close()

    def make(self, store: type[PeerStore], *, is_clock_moved: bool = False) -> str:
        """Make a new, empty place for a store; on PostgreSQL, its server may be the one that sees `clock`."""
        if store.backend == "PostgreSQL":
            return self._stack.enter_context(new_database(self._moved_server if is_clock_moved else self._server))
        self._number += 1
        folder = self._folder / f"place-{self._number}"
        folder.mkdir()
        return str(folder / "chat.db")

    def switch_fsync(self, *, on: bool) -> None:
        """Let PostgreSQL wait for its disk at each commit, or not."""
        with _connect(self._server) as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                value = sql.SQL("on" if on else "off")
                connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(setting), value))
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CHECKPOINT")

    def settle(self, place: str) -> None:
        """Do now what PostgreSQL would do for a filled database at some later time, in the middle of a measurement."""
        if "://" in place:
            with _connect(place) as connection:
                connection.execute("VACUUM ANALYZE")
                connection.execute("CHECKPOINT")

    def count_bytes(self, place: str) -> int:
        """Return the size of a database that nobody uses now."""
        if "://" in place:
            with _connect(place) as connection:
                found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
                return int(found[0]) if found else 0
        _empty_wal(place)
        return sum(path.stat().st_size for path in Path(place).parent.rglob("*") if path.is_file())

    def change_letter(self, place: str) -> int:
        """Change one letter of `MARK` wherever it is stored in a closed database; return at how many places."""
        return _change_rows(place) if "://" in place else _change_file(place)

    def read_moved_hours(self) -> int:
        """Return by how many hours the clock of the moved server differs from the real one."""
        with _connect(self._moved_server) as connection:
            found = connection.execute("SELECT extract(epoch FROM now())::float").fetchone()
            return round((found[0] - time.time()) / 3600) if found else 0

    def read_server_version(self) -> str:
        with _connect(self._server) as connection:
            found = connection.execute("SHOW server_version").fetchone()
            return str(found[0]).split()[0] if found else "?"


@contextmanager
def making_places(folder: Path) -> Iterator[Places]:
    """Start two PostgreSQL servers of the bench's own, whatever CONVSTORE_TEST_POSTGRES names."""
    clock = MovedClock(folder)
    with child("tests.postgres") as uri, child("tests.postgres", environment=clock.make_environment()) as moved_uri:
        server, moved_server = (each.replace("postgresql://", "postgresql+psycopg://") for each in (uri, moved_uri))
        places = Places(folder, server, clock, moved_server)
        try:
            yield places
        finally:
            places.close()


def _empty_wal(place: str) -> None:
    with closing(sqlite3.connect(place)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _change_file(place: str) -> int:
    _empty_wal(place)
    stored = Path(place).read_bytes()
    Path(place).write_bytes(stored.replace(MARK.encode(), CHANGED_MARK.encode()))
    return stored.count(MARK.encode())


def _change_rows(place: str) -> int:
    """Change it by SQL: the server would not start with another letter in a file that has checksums."""
    changed = 0
    with _connect(place) as connection:
        columns = connection.execute(
            "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND is_updatable = 'YES' "
            "AND is_generated = 'NEVER' AND data_type = ANY(%s)",
            (list(_WITH_TEXT),),
        ).fetchall()
        for schema, table, column, kind in columns:
            value = sql.SQL("encode({}, 'escape')" if kind == "bytea" else "{}::text").format(sql.Identifier(column))
            back = sql.SQL("decode({}, 'escape')" if kind == "bytea" else "{}::" + kind)
            replaced = back.format(sql.SQL("replace({}, {}, {})").format(value, MARK, CHANGED_MARK))
            update = sql.SQL("UPDATE {} SET {} = {} WHERE position({} in {}) > 0").format(
                sql.Identifier(schema, table), sql.Identifier(column), replaced, MARK, value
            )
            changed += connection.execute(update).rowcount
    return changed


def _connect(url: str) -> "psycopg.Connection[tuple[Any, ...]]":
    return psycopg.connect(make_libpq_url(url), autocommit=True)
