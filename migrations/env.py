"""Runs the migrations, for `convstore db upgrade`, for a SQLite file that upgrades itself, and for plain `alembic`."""

from __future__ import annotations

import logging.config

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.schema import CreateSchema

from convstore.config.settings import find_database_url
from convstore.db.engine import open_database, parse_url
from convstore.db.models import Base
from convstore.db.postgres_schema import make_enter_sql, read_current_schema, take_schema
from convstore.db.schema_upgrade import is_ours, migrating
from convstore.db.tables import VERSION_TABLE


def run() -> None:
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        migrate(given)
        return
    if context.config.config_file_name is not None:
        logging.config.fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    database = open_database(find_database_url(context.get_x_argument(as_dictionary=True).get("db")))
    try:
        with migrating(database.engine, database.schema) as connection:
            migrate(connection)
    finally:
        database.close()


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        version_table_schema=read_current_schema(connection) if connection.dialect.name == "postgresql" else None,
        include_name=is_ours,
        render_as_batch=True,
        transactional_ddl=True,
        compare_server_default=True,
    )
    context.run_migrations()  # in the transaction of `migrating`, which checks the rows before it commits


def run_offline() -> None:
    """Write the SQL instead of running it (`alembic upgrade head --sql`), for those who apply it by hand."""
    given = parse_url(find_database_url(context.get_x_argument(as_dictionary=True).get("db")))
    url, schema = take_schema(given, None)
    context.configure(
        url=url,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        version_table_schema=schema,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},  # with psycopg's own, each % of a name would be written twice
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        if url.get_backend_name() == "postgresql":
            if schema is not None and context.get_starting_revision_argument() is None:
                context.execute(CreateSchema(schema, if_not_exists=True))
            context.execute(make_enter_sql(context.get_context().dialect, schema))
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run()
