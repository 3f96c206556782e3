"""Fill databases, read everything in them, and run migrations, for the tests of the schema."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

from convstore import Store
from convstore.db import schema_upgrade
from convstore.db.engine import Database, open_database
from convstore.db.search_index import TERMS_TABLE
from tests.forking_python import ForkingPython, forking_python

CHECKOUT = Path(__file__).resolve().parents[2]

Contents = dict[str, tuple[list[str], list[tuple[Any, ...]]]]
"""Return every table with its columns and rows."""


@contextlib.contextmanager
def opened(url: str) -> Iterator[Database]:
    database = open_database(url)
    try:
        yield database
    finally:
        database.close()


def contents(url: str) -> Contents:
    with opened(url) as database, database.read() as connection:
        names = inspect(connection.plain).get_table_names()
        # SQLite's table of terms has no texts to be read, and tables of its own beside it.
        return {name: _rows(connection.plain, name) for name in names if not name.startswith(TERMS_TABLE)}


def _rows(connection: Connection, table: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    found = connection.execute(text(f'SELECT * FROM "{table}"'))
    return list(found.keys()), sorted((tuple(row) for row in found), key=repr)


def fill(url: str, conversations: int = 20, messages: int = 5) -> None:
    """Put conversations, messages and turns of two owners into the database."""
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "test-model",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes.", "refusal": None}}
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
    with Store(url) as store:
        for number in range(conversations):
            owner = store.for_owner("ada" if number % 2 else "")
            made = owner.new(f"Title {number}", system="Be brief.", name=f"name-{number}", temperature=0.5)
            owner.append(made.id, *({"role": "user", "content": f"{number}/{i} 你好"} for i in range(messages)))
            owner.append(made.id, completion)


def application_tables(url: str) -> None:
    """Create an application's tables in the same database, with names that others use too."""
    with opened(url) as database, database.write() as connection:
        connection.execute(text("CREATE TABLE messages (id INTEGER PRIMARY KEY, body TEXT)"))
        connection.execute(text("INSERT INTO messages VALUES (1, 'of the application')"))
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('app42')"))


def ours(found: Contents) -> set[str]:
    return {name for name in found if name.startswith("convstore_")}


def revision_after(revision: str) -> str:
    return f"{int(revision) + 1:04}"


def copy_of_migrations(folder: Path, *scripts: str) -> Path:
    """Copy the project's migrations, and add migrations with the given bodies."""
    copy = folder / "migrations"
    shutil.copytree(schema_upgrade.migrations_folder(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = schema_upgrade.HEAD
    for body in scripts:
        revision = revision_after(before)
        (copy / "versions" / f"{revision}_test.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n"
            f"revision = {revision!r}\ndown_revision = {before!r}\n\n{body}\n"
        )
        before = revision
    return copy


def migrate(url: str, migrations: Path | None = None, *, to: str = "head", down: bool = False) -> None:
    """Run migrations as an upgrade does, with `migrations` instead of the project's own."""
    with opened(url) as database, schema_upgrade.migrating(database.engine, database.schema) as connection:
        config = schema_upgrade.alembic_config()
        if migrations is not None:
            config.set_main_option("script_location", str(migrations))
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, to)


def check_drift(url: str) -> None:
    """Raise the error of `alembic check` if models and database differ, through the project's env.py."""
    with opened(url) as database, schema_upgrade.migrating(database.engine, database.schema) as connection:
        config = Config(stdout=io.StringIO())
        config.set_main_option("script_location", str(schema_upgrade.migrations_folder()))
        config.attributes["connection"] = connection
        command.check(config)


def run(*arguments: str, cwd: Path, new: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in its own process; every warning is an error.

    Args:
        new: start a new Python, also for a module. Otherwise a process that has imported convstore and Alembic forks
            the programs of modules: the imports would take nearly all of their time.
    """
    environment = {**os.environ, **environment}
    if arguments[0] == "-m" and not new:
        forking, written = _start_forking()
        return forking.run(*arguments, cwd=cwd, env=environment, status=None, written=written)
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@functools.cache
def _start_forking() -> tuple[ForkingPython, Path]:
    """Start the process that forks, at the first use in this process, which ends it and removes its folder."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    written = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="convstore-forking-")))
    python = (sys.executable, "-W", "error")
    return stack.enter_context(forking_python(*python, cwd=CHECKOUT, env=dict(os.environ))), written


# Processes that begin at the same moment.

_start: Any = None


def _prepare(barrier: Any) -> None:
    global _start  # noqa: PLW0603 (each process has its own)
    _start = barrier


def _first_use(url: str) -> int:
    store = Store(url)
    _start.wait(60)
    made = store.new("First")
    store.append(made.id, {"role": "user", "content": "Hello"})
    assert store.history(made.id) == [{"role": "user", "content": "Hello"}]
    store.close()
    return os.getpid()


def _upgrade(url: str) -> int:
    _start.wait(60)
    schema_upgrade.upgrade(url)
    return os.getpid()


def at_once(work: Any, url: str, processes: int) -> set[int]:
    """Run `work(url)` in several processes at the same moment; return their ids, or raise the error of one."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.schema.support"])
    barrier = context.Barrier(processes)
    pool = context.Pool(processes, _prepare, (barrier,))
    try:
        return set(pool.map_async(work, [url] * processes, chunksize=1).get(120))
    finally:
        pool.terminate()
        pool.join()


def first_uses(url: str, processes: int) -> set[int]:
    return at_once(_first_use, url, processes)


def upgrades(url: str, processes: int) -> set[int]:
    return at_once(_upgrade, url, processes)
