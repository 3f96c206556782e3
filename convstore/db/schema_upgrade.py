"""Check the schema at the first use, and upgrade it with Alembic.

A SQLite file is upgraded automatically. A database on a server is not, because other releases may be using it. The
check reads two small tables. It does not import Alembic, because the import takes half a second.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Column, Connection, Engine, MetaData, Table, Text, inspect, select, text

from convstore.db import connection as db_connection
from convstore.db.engine import Database, open_database, transaction
from convstore.db.postgres_schema import bind_schema, check_current_schema, enter_schema
from convstore.db.sqlite_engine import file_lock
from convstore.db.tables import VERSION_TABLE, compatibility, metadata
from convstore.errors import DatabaseUnavailable, SchemaOutdated, SchemaTooNew

if TYPE_CHECKING:
    from alembic.config import Config

_logger = logging.getLogger(__name__)

HEAD = "0013"
"""The schema that this release writes. Revisions are numbered, so that a release can tell which one is newer."""

UNFINISHED_COPY = "unfinished copy"
"""Stands for the minimum version while `db copy` writes a database: no release has such a schema, so none uses it."""

_UPGRADE_LOCK = 0x636F6E7673746F72  # "convstor": allows one upgrade of a PostgreSQL database at a time
_VERSIONS = Table(VERSION_TABLE, MetaData(), Column("version_num", Text))
# The catalogues, and not `inspect`, which would find a table of any schema in the search path.
_FIND_POSTGRES_SCHEMA = text(f"""
    SELECT pg_catalog.current_setting('server_encoding') AS encoding, place.name AS schema,
           EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = place.name AND c.relname = '{VERSION_TABLE}') AS has_version
    FROM (SELECT CAST(coalesce(:schema, pg_catalog.current_schema()) AS pg_catalog.text) AS name) AS place
    """)  # noqa: S608 (a constant)
_upgrading = threading.Lock()  # allows one in a process, because Alembic keeps its state in its modules


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The schema of a database."""

    current: str | None
    """The revision of the schema; None: the database has no tables yet."""
    minimum: str | None
    """A release may use the database if it knows this revision; None: no such limit is stored."""
    head: str = HEAD
    """The revision that this release writes."""
    place: str | None = field(default=None, compare=False)
    """The PostgreSQL schema that has the tables, or is for them; None on SQLite."""

    @property
    def up_to_date(self) -> bool:
        """Whether the database has exactly this release's schema."""
        return self.current == self.head

    @property
    def usable(self) -> bool:
        """Whether this release may use the database.

        It may if the schema is its own, or a newer one that still allows this release.
        """
        if self.current is None or self.current < self.head:
            return False
        return self.minimum is None or self.minimum <= self.head

    @property
    def is_unfinished_copy(self) -> bool:
        """Whether the database is a copy that was not finished."""
        return self.minimum == UNFINISHED_COPY


def read_state(connection: Connection, schema: str | None) -> SchemaState:
    """Return the schema of the database; write nothing.

    Args:
        schema: the PostgreSQL schema that has the tables; None: the current one.

    Raises:
        DatabaseUnavailable: a PostgreSQL database is not in UTF-8, so it cannot hold every text; or it has no current
            schema.
    """
    if connection.dialect.name == "sqlite":
        has_version = inspect(connection).has_table(VERSION_TABLE)
    else:
        found = connection.execute(_FIND_POSTGRES_SCHEMA, {"schema": schema}).one()
        if found.encoding != "UTF8":
            raise DatabaseUnavailable(
                f"the database {connection.engine.url.database!r} is in the encoding {found.encoding}, which cannot "
                f"hold every text: create one with ENCODING 'UTF8' TEMPLATE template0"
            )
        schema = check_current_schema(connection, found.schema)
        bind_schema(connection, schema)
        has_version = found.has_version
    if not has_version:
        return SchemaState(None, None, place=schema)
    current = connection.scalar(select(_VERSIONS.c.version_num))
    minimum = connection.scalar(select(compatibility.c.minimum_version)) if current is not None else None
    return SchemaState(current, minimum, place=schema)


def state(database: Database) -> SchemaState:
    """Return the schema of the database; write nothing.

    If this release may use it, the PostgreSQL schema that has the tables stays the database's.
    """
    if not _exists(database.path):
        return SchemaState(None, None)  # to connect would create the file
    with database.read() as connection:
        found = read_state(connection.plain, database.schema)
    if found.usable:
        database.keep_schema(found.place)
    return found


def _exists(path: Path | None) -> bool:
    try:
        return path is None or path.exists()
    except OSError as error:  # the user may not read the folder, or the name is too long
        raise DatabaseUnavailable(f"database {path}: {error.strerror or error}") from error


def ensure_schema(database: Database) -> None:
    """Upgrade an older SQLite file, and check that this release can use the database.

    Raises:
        SchemaOutdated: a PostgreSQL database needs `convstore db upgrade`.
        SchemaTooNew: a newer release has upgraded the database to a schema that this one does not understand.
    """
    found = state(database)
    if found.usable:
        return
    if database.is_sqlite and not _is_newer(found) and not found.is_unfinished_copy:
        upgrade_database(database)
        return
    raise refusal(found, database)


def _is_newer(found: SchemaState) -> bool:
    return found.current is not None and found.current > found.head


def refusal(
    found: SchemaState, database: Database, *, names_database: bool = False
) -> DatabaseUnavailable | SchemaOutdated | SchemaTooNew:
    """Return the error that tells why this release cannot use the database.

    Args:
        names_database: whether the command to type next names the database, because others are in use.
    """
    if found.is_unfinished_copy:
        return DatabaseUnavailable(
            f"database {database.label} is an unfinished copy: run the same `convstore db copy` again"
        )
    if _is_newer(found):
        return SchemaTooNew(
            f"database {database.label} has schema {found.current}, made by a newer convstore; "
            f"this one knows {found.head}: upgrade convstore"
        )
    option = f" --schema {shlex.quote(database.given_schema)}" if database.given_schema is not None else ""
    if names_database:
        option = f" --db {shlex.quote(database.label)}"
    has = f"schema {found.current}" if found.current else "no convstore schema"
    if database.given_schema is None and found.place not in (None, "public"):
        has += f" in its current schema {found.place!r}"
    return SchemaOutdated(
        f"database {database.label} has {has} and this release needs {found.head}: run `convstore db upgrade{option}`"
    )


def upgrade(url: str, schema: str | None = None) -> None:
    """Upgrade the database at `url` to this release's schema, if it is older."""
    database = open_database(url, schema)
    try:
        upgrade_database(database)
    finally:
        database.close()


def upgrade_database(database: Database) -> SchemaState:
    """Upgrade the database to this release's schema, and return the old schema.

    Many processes may do this at once: the first one upgrades, and the others then find nothing to do. A PostgreSQL
    schema that was named is created if it does not exist.

    Raises:
        SchemaTooNew: the database has a newer schema, which this release cannot use.
    """
    from alembic import command

    with _upgrading, file_lock(database.path) if database.path is not None else nullcontext():
        before = state(database)
        if _is_newer(before):
            if before.usable:
                return before
            raise refusal(before, database)
        if not before.up_to_date:
            with database._translated(), migrating(database.engine, before.place) as connection:
                config = alembic_config()
                config.attributes["connection"] = connection
                began = time.monotonic()
                command.upgrade(config, "head")
                _logger.info(
                    "database %s: schema upgraded from %s to %s in %.2f s",
                    database.label,
                    before.current or "none",
                    HEAD,
                    time.monotonic() - began,
                )
        return before


@contextmanager
def migrating(engine: Engine, schema: str | None = None) -> Iterator[Connection]:
    """Open a transaction in which a schema may change; every migration runs in one.

    PostgreSQL: the transaction holds an advisory lock, and its search path is `schema` alone, or the current schema if
    None, so that no migration changes tables elsewhere. SQLite: to change a table, Alembic copies it and drops the old
    one. Foreign keys forbid the drop, and they can only be switched off outside a transaction. So this function
    switches them off first, and checks the rows before the commit
    (https://sqlite.org/lang_altertable.html#otheralter).
    """
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            with transaction(db_connection.Connection(connection), writes=True):
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
                enter_schema(connection, schema)
                yield connection
            return
        driver = connection.connection.driver_connection
        if driver is None:
            raise DatabaseUnavailable("the SQLite connection is closed")
        if driver.in_transaction:
            driver.execute("ROLLBACK")  # on a caller's engine, the driver may always be in a transaction
        enforced = driver.execute("PRAGMA foreign_keys").fetchone()[0]
        driver.execute("PRAGMA foreign_keys = OFF")
        try:
            with transaction(db_connection.Connection(connection), writes=True):
                yield connection
                damage = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchone()
                if damage is not None:
                    raise DatabaseUnavailable(f"the migration would leave rows of {damage[0]} without a parent")
        finally:
            driver.execute(f"PRAGMA foreign_keys = {int(enforced)}")


def alembic_config() -> Config:
    """Return Alembic's configuration for the migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config


def migrations_folder() -> Path:
    """Return the folder of the migrations.

    It is inside an installed package, and at the top of a checkout.
    """
    package = Path(__file__).resolve().parent.parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def is_ours(name: str | None, kind: str, _parents: object = None) -> bool:
    """Return True if a table belongs to convstore.

    Alembic must not compare an application's own tables.
    """
    return kind != "table" or (name is not None and name in metadata.tables)
