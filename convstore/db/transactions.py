"""Run units of work: each in its own transaction, or all in the caller's one."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy
from sqlalchemy.exc import IntegrityError

from convstore.db.callers_schema import CallersSchema
from convstore.db.connection import Connection
from convstore.db.engine import Database, is_undecodable_text
from convstore.db.schema_upgrade import ensure_schema
from convstore.db.unit_of_work import Services, UnitOfWork
from convstore.errors import DatabaseError, DatabaseUnavailable

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.02
_RETRY_SECONDS = 1.0
END_RETRY_SECONDS = 10.0
"""How long the transaction that stores a reply is repeated: long enough for a server to restart."""


class Transactions(Protocol):
    """Runs units of work."""

    @property
    def services(self) -> Services: ...

    @property
    def identity(self) -> Hashable:
        """Names the database: equal for all stores of this process that use it."""
        ...

    @property
    def may_wait(self) -> bool:
        """Whether a caller may wait for a conversation between two transactions."""
        ...

    def read(self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of work that only reads."""
        ...

    def write(self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of work that writes."""
        ...

    def write_repeatable(
        self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a unit of work that writes and that may safely run twice."""
        ...


class OwnTransactions:
    """Runs each unit of work in its own transaction. Threads may share it."""

    may_wait = True

    def __init__(self, database: Database, services: Services) -> None:
        self.database = database
        self.services = services
        self._has_schema = False
        self._preparing = threading.Lock()

    @property
    def identity(self) -> Hashable:
        """Names the database: equal for all stores of this process that use it."""
        return self.database.identity

    def renew_locks_after_fork(self) -> None:
        """Replace the lock in a forked child, because a thread of the parent may hold it."""
        self._preparing = threading.Lock()

    def read(self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of work in a read transaction; repeat it if the connection breaks."""
        return self._run(self.database.read, lambda work: unit(work, *args, **kwargs), may_repeat_commit=True)

    def write(self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of work in a transaction, committed when it returns.

        It is repeated if the connection breaks, or the database ends it because of another transaction (a deadlock). It
        is not repeated if the commit may have succeeded, so nothing is ever stored twice.
        """
        return self._run(self.database.write, lambda work: unit(work, *args, **kwargs), may_repeat_commit=False)

    def write_repeatable(
        self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a unit of work as `write` does; repeat it even if it may have committed.

        The unit of work must be safe to run twice.
        """
        return self._run(self.database.write, lambda work: unit(work, *args, **kwargs), may_repeat_commit=True)

    def write_patiently(self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a unit of work as `write_repeatable` does, but repeat it for longer.

        It is for work that stores a reply.
        """
        return self._run(
            self.database.write,
            lambda work: unit(work, *args, **kwargs),
            may_repeat_commit=True,
            retry_seconds=END_RETRY_SECONDS,
        )

    def _run(
        self,
        transaction: Callable[..., AbstractContextManager[Connection]],
        unit: Callable[[UnitOfWork], R],
        *,
        may_repeat_commit: bool,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> R:
        self.prepare()
        give_up_at = time.monotonic() + retry_seconds
        pause = _FIRST_PAUSE_SECONDS
        keeps_bytes = has_repeated = False
        while True:
            returned = False
            try:
                with transaction(keeps_bytes=keeps_bytes) as connection:
                    result = unit(self.services.begin(connection))
                    returned = True
            except IntegrityError as error:
                # A unit of work handles the constraint errors that it expects; this one is unexpected.
                raise DatabaseError(
                    f"database {self.database.label!r}: a constraint refused a row: {error.orig}"
                ) from error
            except DatabaseUnavailable as error:
                if is_undecodable_text(error) and not keeps_bytes:
                    keeps_bytes = True  # a damaged row: the repeated unit of work finds out which
                    continue
                may_repeat = error.transient and (may_repeat_commit or not returned)
                # PostgreSQL looks for a deadlock after a second, so then the time is over; a repetition is worth it.
                is_late = time.monotonic() + pause > give_up_at and (has_repeated or not _is_deadlock(error))
                if not may_repeat or is_late:
                    raise
                has_repeated = True
                _logger.info(
                    "database %s: repeating a transaction in %.2f s (%s)",
                    self.database.label,
                    pause,
                    type(error.__cause__ or error).__name__,
                )
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (spreads callers, hides nothing)
                pause *= 2
            else:
                return result

    def prepare(self) -> None:
        """Create or check the database's schema, once."""
        if not self._has_schema:
            with self._preparing:
                if not self._has_schema:
                    ensure_schema(self.database)
                    self._has_schema = True

    def close(self) -> None:
        """Close the database's connections; the next unit of work opens them again."""
        self.database.close()
        self._has_schema = False  # a database in memory is lost when its connection is closed


def _is_deadlock(error: DatabaseUnavailable) -> bool:
    return getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) == "40P01"


class CallersTransaction:
    """Runs every unit of work in the caller's own transaction.

    The caller commits it or rolls it back.
    """

    identity = None
    may_wait = False  # while it waits, the caller's open transaction would block others

    def __init__(self, connection: sqlalchemy.Connection, services: Services, schema: CallersSchema) -> None:
        self._connection = connection
        self.services = services
        self._schema = schema

    def read(self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(unit, *args, **kwargs)

    def write(self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(unit, *args, **kwargs)

    def write_repeatable(
        self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        return self._run(unit, *args, **kwargs)

    def _run(self, unit: Callable[Concatenate[UnitOfWork, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._schema.bound(self._connection):
            return unit(self.services.begin(Connection(self._connection)), *args, **kwargs)
