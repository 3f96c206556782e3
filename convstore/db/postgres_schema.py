"""Choose the PostgreSQL schema that has the tables, and bind statements to it.

The tables of `convstore.db.tables` name no schema. A bound connection writes one in front of each of them, so that no
`search_path` decides which tables a statement reads: other programs may change it, also behind PgBouncer, which lets
many clients share the sessions of a server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import Connection, Dialect, TextClause, text
from sqlalchemy.engine import URL
from sqlalchemy.schema import CreateSchema

from convstore.errors import DatabaseUnavailable, InvalidInput

MAX_SCHEMA_NAME_BYTES = 63
"""PostgreSQL cuts longer names off, so that two of them could mean one schema."""

TranslateMap = Mapping[str | None, str | None]

_READ_CURRENT = text("SELECT CAST(pg_catalog.current_schema() AS pg_catalog.text)")
_EXISTS = text("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = :schema)")
# `true`: as SET LOCAL, until the transaction ends.
_ENTER = text("SELECT pg_catalog.set_config('search_path', pg_catalog.quote_ident(:schema), true)")
_ENTER_CURRENT = text(
    "SELECT pg_catalog.set_config('search_path', pg_catalog.quote_ident(pg_catalog.current_schema()), true)"
)


def check_schema_name(name: str) -> str:
    """Return the name of a schema.

    Raises:
        InvalidInput: PostgreSQL cannot have such a schema, or keeps the name for itself.
    """
    if not isinstance(name, str):
        raise InvalidInput(f"the schema must be a text, not {type(name).__name__}")
    if not name:
        raise InvalidInput("the name of the schema is empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"the schema {name!r:.80} is not valid Unicode") from None
    if "\0" in name:
        raise InvalidInput(f"the name of the schema {name!r:.80} contains a NUL")
    if size > MAX_SCHEMA_NAME_BYTES:
        raise InvalidInput(
            f"the name of the schema {name!r:.80} has {size} bytes; PostgreSQL allows {MAX_SCHEMA_NAME_BYTES}"
        )
    if _is_reserved(name):
        raise InvalidInput(f"PostgreSQL keeps the name of the schema {name!r} for itself: choose another one")
    return name


def _is_reserved(name: str) -> bool:
    # A search path replaces "$user" by the name of the role, even in quotes.
    return name.startswith("pg_") or name in ("information_schema", "$user")


def take_schema(url: URL, schema: str | None) -> tuple[URL, str | None]:
    """Return a URL without its `?schema=`, and the schema that it or the argument names.

    Raises:
        InvalidInput: they name different schemas, or the name is not valid, or the database is SQLite.
    """
    named = [] if schema is None else [schema]
    if "schema" in url.query:
        value = url.query["schema"]
        named += [value] if isinstance(value, str) else value
        url = url.difference_update_query(["schema"])
    for other in named[1:]:
        if other != named[0]:
            raise InvalidInput(f"two schemas are given, {named[0]!r:.80} and {other!r:.80}: choose one")
    if not named:
        return url, None
    check_has_schemas(url.get_backend_name())
    return url, check_schema_name(named[0])


def check_has_schemas(backend: str) -> None:
    """Raise InvalidInput if a kind of database has no schemas."""
    if backend == "sqlite":
        raise InvalidInput("a SQLite database has no schemas: use a file for each")


def find_bound_schema(options: Mapping[str, object]) -> str | None:
    """Return the schema that execution options name for tables without one; None if they name none."""
    translate: TranslateMap = options.get("schema_translate_map") or {}  # type: ignore[assignment]
    return translate.get(None)


def bind_schema(connection: Connection, schema: str) -> None:
    """Let the statements of a connection mean the tables of one schema."""
    connection.execution_options(schema_translate_map={None: schema})


@contextmanager
def bound_to_schema(connection: Connection, schema: str) -> Iterator[None]:
    """Bind a caller's connection to one schema within the block, and put back what its own statements mean."""
    before = connection.get_execution_options().get("schema_translate_map")
    bind_schema(connection, schema)
    try:
        yield
    finally:
        connection.execution_options(schema_translate_map=before)


def read_current_schema(connection: Connection) -> str:
    """Return the first schema of the search path that exists.

    Raises:
        DatabaseUnavailable: no schema of the search path exists, or none that may have tables of ours.
    """
    return check_current_schema(connection, connection.scalar(_READ_CURRENT))


def check_current_schema(connection: Connection, schema: str | None) -> str:
    """Return the current schema of a connection, after a check that it can have tables.

    Raises:
        DatabaseUnavailable: it cannot.
    """
    if schema is None or _is_reserved(schema):
        raise DatabaseUnavailable(
            f"the database {connection.engine.url.database!r} has no current schema: the search path names no schema "
            "that exists and that the role may use; create one, or name the schema to use"
        )
    return schema


def enter_schema(connection: Connection, schema: str | None) -> None:
    """Let the rest of a transaction use one schema alone, also in statements that name no schema.

    Args:
        schema: it is created if it does not exist; None: the current one.
    """
    if schema is None:
        schema = read_current_schema(connection)
    # Even IF NOT EXISTS needs the privilege to create schemas.
    elif not connection.scalar(_EXISTS, {"schema": schema}):
        connection.execute(CreateSchema(schema, if_not_exists=True))
    connection.execute(_ENTER, {"schema": schema})


def make_enter_sql(dialect: Dialect, schema: str | None) -> TextClause:
    """Return the statement of `enter_schema`, for SQL that is written and not run.

    Args:
        schema: it exists; None: the current one.
    """
    if schema is None:
        return _ENTER_CURRENT
    quoted = dialect.identifier_preparer.quote_schema(schema)
    return text("SET LOCAL search_path TO " + quoted.replace(":", r"\:"))
