"""Define the options of every command (--db, --schema, --owner and -v), and open the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.chosen_settings import find_owner, get_given_profile, locate_database

if TYPE_CHECKING:
    from convstore.store.finder import Finder
    from convstore.store.read_methods import ReadMethods
    from convstore.store.store import Store

_db_option = click.option(
    "--db",
    metavar="URL",
    help="Database: a SQLAlchemy URL or a SQLite file.  [default: as `convstore config` shows]",
)
_schema_option = click.option(
    "--schema",
    metavar="NAME",
    help="PostgreSQL schema that has the tables.  [default: ?schema= of the URL, else the current schema]",
)
_owner_option = click.option(
    "--owner",
    metavar="OWNER",
    help="Owner of the conversations.  [default: CONVSTORE_OWNER, else as in config.toml]",
)
_verbose_option = click.option(
    "-v", "--verbose", count=True, help="Log on stderr; -vv with debug messages.  [default: no log]"
)


@dataclass(frozen=True, slots=True)
class DatabaseChoice:
    """The database that a command works with."""

    db: str | None
    schema: str | None

    def locate(self) -> str:
        """Return the database as a URL or a path: --db, else the one in force."""
        return locate_database(self.db)


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """The database and the owner that a command works with."""

    database: DatabaseChoice
    owner: str


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --db, --schema, --owner and -v to a command.

    The command receives a StoreChoice as `store_choice`.
    """

    @wraps(command)
    def run(*, db: str | None, schema: str | None, owner: str | None, **others: Any) -> None:
        command(store_choice=StoreChoice(DatabaseChoice(db, schema), find_owner(owner)), **others)

    return _db_option(_schema_option(_owner_option(log_option(run))))


def database_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --db, --schema and -v to a command.

    The command receives a DatabaseChoice as `database_choice`.
    """

    @wraps(command)
    def run(*, db: str | None, schema: str | None, **others: Any) -> None:
        command(database_choice=DatabaseChoice(db, schema), **others)

    return _db_option(_schema_option(log_option(run)))


@dataclass(frozen=True, slots=True)
class _SharedStore:
    """The store that a chat has open, for the commands that run in the chat."""

    choice: StoreChoice
    base_url: str | None
    store: Store

    def serves(self, choice: StoreChoice, base_url: str | None = None) -> bool:
        return choice == self.choice and base_url in (None, self.base_url)


_shared: list[_SharedStore] = []


@contextmanager
def share_store(choice: StoreChoice, base_url: str | None, store: Store) -> Iterator[None]:
    """Let the commands that run in this block use an open store, if they make the same choice."""
    _shared.append(_SharedStore(choice, base_url, store))
    try:
        yield
    finally:
        _shared.pop()


def open_store(choice: StoreChoice, base_url: str | None = None) -> AbstractContextManager[Store]:
    """Open the store that a command's options name."""
    if _shared and _shared[-1].serves(choice, base_url):
        return nullcontext(_shared[-1].store)
    from convstore.store.store import Store

    return Store(
        choice.database.locate(),
        schema=choice.database.schema,
        owner=choice.owner,
        base_url=base_url,
        profile=get_given_profile(),
    )


def open_finder(choice: StoreChoice) -> Finder:
    """Open the store that a command's options name, for a command that only finds conversations."""
    from convstore.store.finder import Finder

    return Finder(choice.database.locate(), schema=choice.database.schema, owner=choice.owner)


def open_reader(choice: StoreChoice) -> AbstractContextManager[ReadMethods]:
    """Open the store that a command's options name, for a command that only reads; this starts faster."""
    if _shared and _shared[-1].serves(choice):
        return nullcontext(_shared[-1].store)
    from convstore.store.reader import Reader

    return Reader(choice.database.locate(), schema=choice.database.schema, owner=choice.owner)


def log_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add -v to a command, and show the log while it runs."""

    @wraps(command)
    def run(*, verbose: int, **others: Any) -> None:
        if not verbose:
            command(**others)
            return
        from convstore.cli.render.log_output import show_log  # here, because it imports logging

        with show_log(verbose):
            command(**others)

    return _verbose_option(run)
