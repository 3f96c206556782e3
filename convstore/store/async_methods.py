"""The methods of an async store that call no model: those of `ConversationMethods`, run elsewhere."""

from __future__ import annotations

import builtins  # inside the class, `list` is a method
import os
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from copy import copy
from datetime import date, datetime
from typing import IO, TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar

from convstore.context.window import SendableBuffer
from convstore.errors import DamagedRow
from convstore.messages.message import Message
from convstore.store.async_erasing_methods import AsyncErasingMethods
from convstore.store.conversation_methods import ConversationMethods
from convstore.store.docstrings import documented_as
from convstore.values.identifiers import NO_SEQ, Seq
from convstore.values.results import UNCHANGED, Conversation, Given, MessageRecord, Rating, Summary, Turn
from convstore.values.validation import OnBusy, check_owner

if TYPE_CHECKING:
    from convstore.transfer.imported import ImportedConversation, Problem
    from convstore.usage.usage_report import UsageBy, UsageReport
    from convstore.values.export_report import ExportReport
    from convstore.values.import_report import ImportReport
    from convstore.values.search_results import SearchResults

P = ParamSpec("P")
R = TypeVar("R")


class AsyncConversationMethods(AsyncErasingMethods):
    """Everything about an owner's conversations that needs no model, with `await`."""

    def __init__(self, owner: str) -> None:
        self._owner = owner

    @abstractmethod
    async def _run(
        self, method: Callable[Concatenate[ConversationMethods, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a method of the sync store in a thread."""

    @property
    def owner(self) -> str:
        """The owner of the conversations."""
        return self._owner

    @documented_as(ConversationMethods.for_owner)
    def for_owner(self, owner: str) -> Self:
        view = copy(self)
        view._owner = check_owner(owner)
        return view

    @documented_as(ConversationMethods.new)
    async def new(
        self,
        /,
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
            ConversationMethods.new,
            title,
            system=system,
            messages=messages,
            id=id,
            name=name,
            metadata=metadata,
            **parameters,
        )

    @documented_as(ConversationMethods.get)
    async def get(self, reference: str, *, deleted: bool = False) -> Conversation:
        return await self._run(ConversationMethods.get, reference, deleted=deleted)

    @documented_as(ConversationMethods.list)
    async def list(
        self,
        text: str | None = None,
        *,
        limit: int | None = 20,
        before: Conversation | str | None = None,
        tags: Sequence[str] = (),
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        source: str | None = None,
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        archived: bool = False,
        deleted: bool = False,
        on_damaged: Callable[[DamagedRow], object] | None = None,
    ) -> builtins.list[Conversation]:
        return await self._run(
            ConversationMethods.list,
            text,
            limit=limit,
            before=before,
            tags=tags,
            model=model,
            metadata=metadata,
            source=source,
            since=since,
            until=until,
            archived=archived,
            deleted=deleted,
            on_damaged=on_damaged,
        )

    @documented_as(ConversationMethods.search)
    async def search(
        self,
        query: str,
        *,
        limit: int = 20,
        before: str | None = None,
        conversation_id: str | None = None,
        role: str | None = None,
        model: str | None = None,
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        tags: Sequence[str] = (),
        rating: Literal["good", "bad"] | None = None,
        best: bool = False,
        archived: bool = False,
        deleted: bool = False,
        on_damaged: Callable[[DamagedRow], object] | None = None,
    ) -> SearchResults:
        return await self._run(
            ConversationMethods.search,
            query,
            limit=limit,
            before=before,
            conversation_id=conversation_id,
            role=role,
            model=model,
            since=since,
            until=until,
            tags=tags,
            rating=rating,
            best=best,
            archived=archived,
            deleted=deleted,
            on_damaged=on_damaged,
        )

    @documented_as(ConversationMethods.reindex)
    async def reindex(
        self,
        *,
        whole: bool = False,
        seconds: float | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> int:
        return await self._run(ConversationMethods.reindex, whole=whole, seconds=seconds, on_progress=on_progress)

    @documented_as(ConversationMethods.set)
    async def set(
        self,
        /,
        conversation_id: str,
        *,
        name: Given[str] = UNCHANGED,
        title: Given[str] = UNCHANGED,
        metadata: Given[Mapping[str, Any]] = UNCHANGED,
        metadata_texts: Given[Mapping[str, str]] = UNCHANGED,
        **parameters: Any,
    ) -> Conversation:
        return await self._run(
            ConversationMethods.set,
            conversation_id,
            name=name,
            title=title,
            metadata=metadata,
            metadata_texts=metadata_texts,
            **parameters,
        )

    @documented_as(ConversationMethods.history)
    async def history(
        self,
        conversation_id: str,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
        exact: bool = False,
    ) -> builtins.list[Message]:
        return await self._run(
            ConversationMethods.history, conversation_id, limit=limit, max_bytes=max_bytes, exact=exact
        )

    @documented_as(ConversationMethods.iterate_history)
    async def iterate_history(self, conversation_id: str, *, exact: bool = False) -> AsyncIterator[Message]:
        buffer = SendableBuffer()
        async for record in self.iterate_messages(conversation_id):
            for message in (record.message,) if exact else buffer.add(record):
                yield message
        for message in buffer.take_rest():
            yield message

    @documented_as(ConversationMethods.iterate_messages)
    async def iterate_messages(self, conversation_id: str) -> AsyncIterator[MessageRecord]:
        page = await self._run(ConversationMethods._read_path_page, conversation_id)
        for record in page.records:
            yield record
        while not page.is_last:
            page = await self._run(ConversationMethods._read_path_page, conversation_id, page)
            for record in page.records:
                yield record

    @documented_as(ConversationMethods.messages)
    async def messages(
        self,
        conversation_id: str,
        *,
        before: int | None = None,
        limit: int | None = 100,
        max_bytes: int | None = None,
    ) -> builtins.list[MessageRecord]:
        return await self._run(
            ConversationMethods.messages, conversation_id, before=before, limit=limit, max_bytes=max_bytes
        )

    @documented_as(ConversationMethods.turns)
    async def turns(
        self, conversation_id: str, *, before: int | None = None, limit: int | None = 100
    ) -> builtins.list[Turn]:
        return await self._run(ConversationMethods.turns, conversation_id, before=before, limit=limit)

    @documented_as(ConversationMethods.unanswered)
    async def unanswered(self, conversation_id: str) -> builtins.list[Turn]:
        return await self._run(ConversationMethods.unanswered, conversation_id)

    @documented_as(ConversationMethods.input_of)
    async def input_of(self, turn: Turn) -> builtins.list[MessageRecord]:
        return await self._run(ConversationMethods.input_of, turn)

    @documented_as(ConversationMethods.import_)
    async def import_(
        self,
        source: str | os.PathLike[str] | IO[bytes] | Iterable[ImportedConversation | Problem],
        *,
        kind: str | None = None,
        dry_run: bool = False,
        new_ids: bool = False,
        again: bool = False,
        on_progress: Callable[[int, float | None], object] | None = None,
    ) -> ImportReport:
        return await self._run(
            ConversationMethods.import_,
            source,
            kind=kind,
            dry_run=dry_run,
            new_ids=new_ids,
            again=again,
            on_progress=on_progress,
        )

    @documented_as(ConversationMethods.append)
    async def append(
        self,
        conversation_id: str,
        message: object,
        *more: object,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
    ) -> builtins.list[MessageRecord]:
        return await self._run(
            ConversationMethods.append,
            conversation_id,
            message,
            *more,
            idempotency_key=idempotency_key,
            expected_head=expected_head,
            on_busy=on_busy,
            wait=wait,
        )

    @documented_as(ConversationMethods.undo)
    async def undo(self, conversation_id: str, n: int = 1, *, expected_head: int | None = None) -> Conversation:
        return await self._run(ConversationMethods.undo, conversation_id, n, expected_head=expected_head)

    @documented_as(ConversationMethods.redo)
    async def redo(self, conversation_id: str, *, expected_head: int | None = None) -> Conversation:
        return await self._run(ConversationMethods.redo, conversation_id, expected_head=expected_head)

    @documented_as(ConversationMethods.checkout)
    async def checkout(self, conversation_id: str, seq: int, *, expected_head: int | None = None) -> Conversation:
        return await self._run(ConversationMethods.checkout, conversation_id, seq, expected_head=expected_head)

    @documented_as(ConversationMethods.fork)
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
            ConversationMethods.fork,
            conversation_id,
            at=at,
            new_id=new_id,
            name=name,
            title=title,
            expected_head=expected_head,
        )

    @documented_as(ConversationMethods.tree)
    async def tree(self, conversation_id: str) -> builtins.list[MessageRecord]:
        return await self._run(ConversationMethods.tree, conversation_id)

    @documented_as(ConversationMethods.iterate_tree)
    async def iterate_tree(self, conversation_id: str) -> AsyncIterator[MessageRecord]:
        records = await self._run(ConversationMethods._read_tree_page, conversation_id, NO_SEQ)
        while records:
            for record in records:
                yield record
            records = await self._run(ConversationMethods._read_tree_page, conversation_id, records[-1].seq)

    @documented_as(ConversationMethods.at)
    async def at(self, conversation_id: str, position: int) -> MessageRecord:
        return await self._run(ConversationMethods.at, conversation_id, position)

    @documented_as(ConversationMethods.interrupted)
    async def interrupted(self, conversation_id: str, records: Sequence[MessageRecord]) -> frozenset[Seq]:
        return await self._run(ConversationMethods.interrupted, conversation_id, records)

    @documented_as(ConversationMethods.pin)
    async def pin(self, conversation_id: str, position: int, *, expected_head: int | None = None) -> Conversation:
        return await self._run(ConversationMethods.pin, conversation_id, position, expected_head=expected_head)

    @documented_as(ConversationMethods.unpin)
    async def unpin(self, conversation_id: str, position: int, *, expected_head: int | None = None) -> Conversation:
        return await self._run(ConversationMethods.unpin, conversation_id, position, expected_head=expected_head)

    @documented_as(ConversationMethods.export)
    async def export(
        self,
        target: str | os.PathLike[str] | IO[bytes],
        *conversation_ids: str,
        query: str | None = None,
        format: str = "jsonl",
        tree: bool | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> ExportReport:
        return await self._run(
            ConversationMethods.export,
            target,
            *conversation_ids,
            query=query,
            format=format,
            tree=tree,
            on_progress=on_progress,
        )

    @documented_as(ConversationMethods.archive)
    async def archive(self, conversation_id: str) -> Conversation:
        return await self._run(ConversationMethods.archive, conversation_id)

    @documented_as(ConversationMethods.unarchive)
    async def unarchive(self, conversation_id: str) -> Conversation:
        return await self._run(ConversationMethods.unarchive, conversation_id)

    @documented_as(ConversationMethods.tag)
    async def tag(self, conversation_id: str, *tags: str) -> Conversation:
        return await self._run(ConversationMethods.tag, conversation_id, *tags)

    @documented_as(ConversationMethods.untag)
    async def untag(self, conversation_id: str, *tags: str) -> Conversation:
        return await self._run(ConversationMethods.untag, conversation_id, *tags)

    @documented_as(ConversationMethods.tags)
    async def tags(self) -> dict[str, int]:
        return await self._run(ConversationMethods.tags)

    @documented_as(ConversationMethods.rate)
    async def rate(
        self,
        conversation_id: str,
        position: int,
        rating: Literal["good", "bad"] | None,
        *,
        note: str | None = None,
    ) -> Rating | None:
        return await self._run(ConversationMethods.rate, conversation_id, position, rating, note=note)

    @documented_as(ConversationMethods.ratings)
    async def ratings(self, conversation_id: str) -> builtins.list[Rating]:
        return await self._run(ConversationMethods.ratings, conversation_id)

    @documented_as(ConversationMethods.summary)
    async def summary(self, conversation_id: str) -> Summary | None:
        return await self._run(ConversationMethods.summary, conversation_id)

    @documented_as(ConversationMethods.drop_summary)
    async def drop_summary(self, conversation_id: str) -> Summary | None:
        return await self._run(ConversationMethods.drop_summary, conversation_id)

    @documented_as(ConversationMethods.pending_calls)
    async def pending_calls(self, conversation_id: str) -> builtins.list[dict[str, Any]]:
        return await self._run(ConversationMethods.pending_calls, conversation_id)

    @documented_as(ConversationMethods.delete)
    async def delete(self, conversation_id: str) -> None:
        await self._run(ConversationMethods.delete, conversation_id)

    @documented_as(ConversationMethods.restore)
    async def restore(self, conversation_id: str) -> Conversation:
        return await self._run(ConversationMethods.restore, conversation_id)

    @documented_as(ConversationMethods.usage)
    async def usage(
        self,
        conversation_id: str | None = None,
        *,
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        by: UsageBy | None = None,
    ) -> UsageReport:
        return await self._run(ConversationMethods.usage, conversation_id, since=since, until=until, by=by)

    @documented_as(ConversationMethods.usage_by_owner)
    async def usage_by_owner(
        self, *, since: datetime | date | None = None, until: datetime | date | None = None
    ) -> UsageReport:
        return await self._run(ConversationMethods.usage_by_owner, since=since, until=until)
