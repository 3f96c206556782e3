"""Let the driver run statements although a test listens to the engine.

convstore gives its statements to the driver while nobody listens to the engine, and to SQLAlchemy otherwise. Tests
listen to count statements and to strike at one. They must strike where users are, so the listeners are called around
the driver's work here. Stores with a caller's engine use SQLAlchemy's execution, in these tests too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from convstore.db import connection

_perform: Callable[..., Any] = connection.Connection._perform


def share() -> None:
    """Call the listeners from now on, in this process and in its forked children."""
    connection._ENGINE_EVENTS = ("before_execute", "after_execute")  # type: ignore[assignment]
    connection.Connection._perform = _perform_with_events  # type: ignore[method-assign]


def _perform_with_events(
    self: connection.Connection,
    sql: str,
    bound: Any,
    read: Callable[[Any], Any] = lambda _: None,
    *,
    is_many: bool = False,
) -> Any:
    plain = self.plain
    listened = plain.engine.dispatch

    def read_after(cursor: Any) -> Any:
        for call in listened.after_cursor_execute:
            call(plain, cursor, sql, bound, None, is_many)
        return read(cursor)

    try:
        for call in listened.before_cursor_execute:
            call(plain, self._driver, sql, bound, None, is_many)
    except BaseException as error:
        self._translate(error, sql, None)
        raise
    return _perform(self, sql, bound, read_after, is_many=is_many)


@contextmanager
def taken_back() -> Iterator[None]:
    """Let the driver run statements as it does for users: nobody listens in this block."""
    shared = connection.Connection._perform
    connection.Connection._perform = _perform  # type: ignore[method-assign]
    try:
        yield
    finally:
        connection.Connection._perform = shared  # type: ignore[method-assign]
