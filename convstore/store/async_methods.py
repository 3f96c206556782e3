"""Everything about conversations that needs no model, for asyncio: the sync methods, run elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from convstore.messages.token_estimate import Counter
from convstore.store.branch_methods import Calls, Records
from convstore.store.conversation_methods import BorrowedConversations, ConversationList, Conversations, Messages, Turns
from convstore.values.results import UNCHANGED, Conversation, Given, MessageRecord, Summary, Turn
from convstore.values.validation import OnBusy, check_owner, patience

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from convstore.usage.prices import Prices
    from convstore.usage.usage_report import UsageBy, UsageReport

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def documented_as(twin: Any) -> Callable[[F], F]:
    """Document a method as its sync twin is."""

    def document(method: F) -> F:
        method.__doc__ = twin.__doc__
        return method

    return document


class AsyncConversations(ABC):
    """An owner's conversations, as `AsyncStore` and `AsyncStore.using(connection)` show them."""

    _owner: str

    @abstractmethod
    async def _run(self, method: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """Run a method of the sync twin."""

    @property
    def owner(self) -> str:
        """Whose conversations these are."""
        return self._owner

    @documented_as(Conversations.for_owner)
    def for_owner(self, owner: str) -> Self:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _owner=check_owner(owner))
        return view

    @documented_as(Conversations.new)
    async def new(
        self,
        title: str | None = None,
        *,
        system: str | None = None,
        messages: Sequence[object] = (),
        id: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Conversation:
        return await self._run(
            Conversations.new,
            title,
            system=system,
            messages=messages,
            id=id,
            name=name,
            metadata=metadata,
            **parameters,
        )

    @documented_as(Conversations.get)
    async def get(self, reference: str) -> Conversation:
        return await self._run(Conversations.get, reference)

    @documented_as(Conversations.list)
    async def list(self, *, limit: int | None = 20, before: Conversation | None = None) -> ConversationList:
        return await self._run(Conversations.list, limit=limit, before=before)

    @documented_as(Conversations.set)
    async def set(
        self,
        conversation_id: str,
        *,
        name: Given[str] = UNCHANGED,
        title: Given[str] = UNCHANGED,
        metadata: Given[Mapping[str, Any]] = UNCHANGED,
        **parameters: Any,
    ) -> Conversation:
        return await self._run(
            Conversations.set, conversation_id, name=name, title=title, metadata=metadata, **parameters
        )

    @documented_as(Conversations.history)
    async def history(self, conversation_id: str, *, limit: int | None = None, exact: bool = False) -> Messages:
        return await self._run(Conversations.history, conversation_id, limit=limit, exact=exact)

    @documented_as(Conversations.messages)
    async def messages(self, conversation_id: str, *, before: int | None = None, limit: int | None = 100) -> Records:
        return await self._run(Conversations.messages, conversation_id, before=before, limit=limit)

    @documented_as(Conversations.turns)
    async def turns(self, conversation_id: str, *, before: int | None = None, limit: int | None = 100) -> Turns:
        return await self._run(Conversations.turns, conversation_id, before=before, limit=limit)

    @documented_as(Conversations.unanswered)
    async def unanswered(self, conversation_id: str) -> Turns:
        return await self._run(Conversations.unanswered, conversation_id)

    @documented_as(Conversations.input_of)
    async def input_of(self, turn: Turn) -> Records:
        return await self._run(Conversations.input_of, turn)

    @documented_as(Conversations.append)
    async def append(
        self,
        conversation_id: str,
        message: object,
        *more: object,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
    ) -> Records:
        attempt = partial(
            self._run,
            Conversations.append,
            conversation_id,
            message,
            *more,
            idempotency_key=idempotency_key,
            expected_head=expected_head,
            wait=0,
        )
        return await self._when_free(conversation_id, patience(on_busy, wait), attempt)

    @documented_as(Conversations.undo)
    async def undo(self, conversation_id: str, n: int = 1, *, expected_head: int | None = None) -> Conversation:
        return await self._run(Conversations.undo, conversation_id, n, expected_head=expected_head)

    @documented_as(Conversations.redo)
    async def redo(self, conversation_id: str, *, expected_head: int | None = None) -> Conversation:
        return await self._run(Conversations.redo, conversation_id, expected_head=expected_head)

    @documented_as(Conversations.checkout)
    async def checkout(self, conversation_id: str, seq: int, *, expected_head: int | None = None) -> Conversation:
        return await self._run(Conversations.checkout, conversation_id, seq, expected_head=expected_head)

    @documented_as(Conversations.fork)
    async def fork(
        self,
        conversation_id: str,
        *,
        at: int | None = None,
        new_id: str | None = None,
        name: str | None = None,
        title: Given[str] = UNCHANGED,
        expected_head: int | None = None,
    ) -> Conversation:
        return await self._run(
            Conversations.fork,
            conversation_id,
            at=at,
            new_id=new_id,
            name=name,
            title=title,
            expected_head=expected_head,
        )

    @documented_as(Conversations.tree)
    async def tree(self, conversation_id: str) -> Records:
        return await self._run(Conversations.tree, conversation_id)

    @documented_as(Conversations.at)
    async def at(self, conversation_id: str, position: int) -> MessageRecord:
        return await self._run(Conversations.at, conversation_id, position)

    @documented_as(Conversations.interrupted)
    async def interrupted(self, conversation_id: str, records: Sequence[MessageRecord]) -> frozenset[int]:
        return await self._run(Conversations.interrupted, conversation_id, records)

    @documented_as(Conversations.pin)
    async def pin(self, conversation_id: str, position: int, *, expected_head: int | None = None) -> Conversation:
        return await self._run(Conversations.pin, conversation_id, position, expected_head=expected_head)

    @documented_as(Conversations.unpin)
    async def unpin(self, conversation_id: str, position: int, *, expected_head: int | None = None) -> Conversation:
        return await self._run(Conversations.unpin, conversation_id, position, expected_head=expected_head)

    @documented_as(Conversations.summary)
    async def summary(self, conversation_id: str) -> Summary | None:
        return await self._run(Conversations.summary, conversation_id)

    @documented_as(Conversations.drop_summary)
    async def drop_summary(self, conversation_id: str) -> Summary | None:
        return await self._run(Conversations.drop_summary, conversation_id)

    @documented_as(Conversations.pending_calls)
    async def pending_calls(self, conversation_id: str) -> Calls:
        return await self._run(Conversations.pending_calls, conversation_id)

    @documented_as(Conversations.delete)
    async def delete(self, conversation_id: str) -> None:
        await self._run(Conversations.delete, conversation_id)

    @documented_as(Conversations.restore)
    async def restore(self, conversation_id: str) -> Conversation:
        return await self._run(Conversations.restore, conversation_id)

    @documented_as(Conversations.usage)
    async def usage(
        self,
        conversation_id: str | None = None,
        *,
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        by: UsageBy | None = None,
    ) -> UsageReport:
        return await self._run(Conversations.usage, conversation_id, since=since, until=until, by=by)

    @documented_as(Conversations.usage_by_owner)
    async def usage_by_owner(
        self, *, since: datetime | date | None = None, until: datetime | date | None = None
    ) -> UsageReport:
        return await self._run(Conversations.usage_by_owner, since=since, until=until)

    async def _when_free(self, conversation_id: str, wait: float, attempt: Callable[[], Awaitable[R]]) -> R:  # noqa: ARG002
        return await attempt()


class AsyncBorrowedConversations(AsyncConversations):
    """An owner's conversations in the caller's own transaction; what `AsyncStore.using(connection)` returns."""

    def __init__(self, connection: AsyncConnection, owner: str, count: Counter, prices: Callable[[], Prices]) -> None:
        self._connection = connection
        self._owner = owner
        self._count = count
        self._prices = prices

    async def _run(self, method: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        def run(connection: Connection) -> R:
            borrowed = BorrowedConversations(connection, self._owner, self._count, self._prices)
            return method(borrowed, *args, **kwargs)

        return await self._connection.run_sync(run)
