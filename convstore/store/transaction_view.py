"""An owner's conversations inside the caller's own transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from convstore.db.callers_schema import CallersSchema
from convstore.db.transactions import CallersTransaction
from convstore.db.unit_of_work import Services
from convstore.store.async_methods import AsyncConversationMethods
from convstore.store.conversation_methods import ConversationMethods

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

P = ParamSpec("P")
R = TypeVar("R")


class TransactionView(ConversationMethods):
    """An owner's conversations inside the caller's own transaction; `Store.using(connection)` returns it."""

    def __init__(self, connection: Connection, services: Services, owner: str, schema: CallersSchema) -> None:
        super().__init__(CallersTransaction(connection, services, schema), owner)


class AsyncTransactionView(AsyncConversationMethods):
    """An owner's conversations inside the caller's own transaction; `AsyncStore.using(connection)` returns it."""

    def __init__(self, connection: AsyncConnection, services: Services, owner: str, schema: CallersSchema) -> None:
        super().__init__(owner)
        self._connection = connection
        self._services = services
        self._schema = schema

    async def _run(
        self, method: Callable[Concatenate[ConversationMethods, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        def run(connection: Connection) -> R:
            return method(TransactionView(connection, self._services, self._owner, self._schema), *args, **kwargs)

        return await self._connection.run_sync(run)
