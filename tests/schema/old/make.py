"""Make the files of one release: databases with everything that it can store, and what it read from them.

Run it with a checkout of the release's last commit, and the folder for the files:

    git worktree add ../old COMMIT
    .venv/bin/python -m tests.schema.old.make ../old tests/schema/old
    git worktree remove ../old

It writes, each compressed: `NNNN.db`, a SQLite file; `NNNN.sql`, a PostgreSQL database as the release's own DDL and
INSERTs; and beside each, as JSON, what the release's library read from it. Every run makes the same contents, except
times, lease tokens, and how much of a stopped reply had come.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import make_url


def driver_url(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def sql_of(url: str, checkout: Path) -> bytes:
    """Return a PostgreSQL database as SQL: the release's DDL, and a statement for each row."""
    import psycopg
    from psycopg import sql

    alembic = [sys.executable, "-m", "alembic", "-x", f"db={url}", "upgrade", "head", "--sql"]
    ddl = subprocess.run(alembic, cwd=checkout, check=True, capture_output=True).stdout
    written = [ddl.decode()]
    with psycopg.connect(driver_url(url)) as connection:
        found = connection.execute(
            "SELECT tablename FROM pg_tables WHERE tablename LIKE 'convstore%' ORDER BY"
            " tablename <> 'convstore_conversations', tablename"
        )
        made = {"convstore_version", "convstore_compatibility"}  # their rows are in the DDL
        for table in [name for (name,) in found if name not in made]:
            none = connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier(table)))
            places = ", ".join(str(place) for place in range(1, min(3, len(none.description or ())) + 1))
            ordered = sql.SQL("SELECT * FROM {} ORDER BY " + places).format(sql.Identifier(table))
            cursor = connection.execute(ordered)
            names = ", ".join(f'"{column.name}"' for column in cursor.description or ())
            for row in cursor:
                values = ", ".join(sql.Literal(value).as_string(connection) for value in row)
                written.append(f"INSERT INTO {table} ({names}) VALUES ({values});\n")
    return "".join(written).encode()


def make(url: str, path: Path, content: Callable[[], bytes]) -> None:
    """Fill a database, read it with the release's own code, and write both."""
    from convstore import Store
    from convstore.testing import ChatServer
    from tests.schema.old.filling import Filling
    from tests.schema.old.reading import reading

    with ChatServer() as server:
        Filling(url, server).everything()
    with Store(url) as store:
        read = reading(store)
    write(path, content())
    write(path.with_name(path.name + ".json"), json.dumps(read, separators=(",", ":")).encode())


def write(path: Path, content: bytes) -> None:
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(content, mtime=0))


def main(checkout: Path, folder: Path) -> None:
    """Make the files of the schema that the code in `checkout` writes."""
    from tests.postgres import new_database, running_server
    from tests.schema.old.filling import find_schema_module

    schema = find_schema_module()
    if not Path(str(schema.__file__)).is_relative_to(checkout):
        sys.exit(f"this is not the code in {checkout}, but {schema.__file__}")
    os.environ["OPENAI_API_KEY"] = "none"
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "chat.db")
        make(f"sqlite:///{file}", folder / f"{schema.HEAD}.db", file.read_bytes)
    with running_server() as server, new_database(server) as url:
        schema.upgrade(url)
        make(url, folder / f"{schema.HEAD}.sql", lambda: sql_of(url, checkout))


if __name__ == "__main__":
    checkout, target, *child = sys.argv[1:]
    sys.path.insert(0, checkout)  # from here on, its convstore is used
    if target == "--child":
        from tests.schema.old.filling import act

        act(*child)
    else:
        main(Path(checkout).resolve(), Path(target).resolve())
