"""Where units of database work run: each in a transaction of its own, or all in one of the caller's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from convstore.messages.token_estimate import Counter
from convstore.usage.prices import Prices

P = ParamSpec("P")
R = TypeVar("R")


class Transactions(Protocol):
    """Where units of database work run: each in a transaction of its own, or all in one of the caller's."""

    def read(self, unit: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    @property
    def count(self) -> Counter:
        """Counts a message's tokens."""
        ...

    def prices(self) -> Prices:
        """Return the prices of tokens."""
        ...

    def write(self, unit: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def write_repeatable(
        self, unit: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    def when_free(self, owner: str, conversation_id: str, wait: float, attempt: Callable[[], R]) -> R: ...


class Borrowed:
    """The caller's own connection: what is done in it is committed, or rolled back, with the caller's transaction."""

    def __init__(self, connection: Connection, count: Counter, prices: Callable[[], Prices]) -> None:
        self._connection = connection
        self.count = count
        self.prices = prices

    def read(self, unit: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return unit(self._connection, *args, **kwargs)

    def write(self, unit: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return unit(self._connection, *args, **kwargs)

    write_repeatable = write

    def when_free(self, owner: str, conversation_id: str, wait: float, attempt: Callable[[], R]) -> R:  # noqa: ARG002
        return attempt()  # waiting inside an open transaction would make others wait for the caller
