"""The methods of an async store that remove for good: purge, retention, redact; run elsewhere."""

from __future__ import annotations

import builtins  # `list` is a method
from abc import abstractmethod
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, TypeVar

from convstore.store.async_key_methods import AsyncKeyMethods
from convstore.store.conversation_methods import ConversationMethods
from convstore.store.docstrings import documented_as

if TYPE_CHECKING:
    from convstore.values.purge_receipt import PurgeReceipt
    from convstore.values.redaction_report import Redaction
    from convstore.values.retention_rule import RetentionRule

P = ParamSpec("P")
R = TypeVar("R")


class AsyncErasingMethods(AsyncKeyMethods):
    """Removing an owner's conversations and texts for good, with `await`."""

    @abstractmethod
    async def _run(
        self, method: Callable[Concatenate[ConversationMethods, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    @documented_as(ConversationMethods.redact)
    async def redact(
        self,
        conversation_id: str,
        position: int,
        *,
        match: str | None = None,
        everywhere: bool = False,
        dry_run: bool = False,
        finish: bool = True,
    ) -> Redaction:
        return await self._run(
            ConversationMethods.redact,
            conversation_id,
            position,
            match=match,
            everywhere=everywhere,
            dry_run=dry_run,
            finish=finish,
        )

    @documented_as(ConversationMethods.purge)
    async def purge(
        self,
        conversation_id: str,
        *,
        dry_run: bool = False,
        after: Collection[str] = (),
        keep_digest: bool = False,
        finish: bool = True,
    ) -> PurgeReceipt:
        return await self._run(
            ConversationMethods.purge,
            conversation_id,
            dry_run=dry_run,
            after=after,
            keep_digest=keep_digest,
            finish=finish,
        )

    @documented_as(ConversationMethods.purge_older_than)
    async def purge_older_than(
        self,
        age: timedelta | datetime,
        *,
        ids: Collection[str] | None = None,
        deleted: bool = False,
        dry_run: bool = False,
        keep_digest: bool = False,
        finish: bool = True,
        on_progress: Callable[[int], object] | None = None,
    ) -> builtins.list[PurgeReceipt]:
        return await self._run(
            ConversationMethods.purge_older_than,
            age,
            ids=ids,
            deleted=deleted,
            dry_run=dry_run,
            keep_digest=keep_digest,
            finish=finish,
            on_progress=on_progress,
        )

    @documented_as(ConversationMethods.purge_owner)
    async def purge_owner(
        self,
        *,
        dry_run: bool = False,
        keep_digest: bool = False,
        finish: bool = True,
        on_progress: Callable[[int], object] | None = None,
    ) -> builtins.list[PurgeReceipt]:
        return await self._run(
            ConversationMethods.purge_owner,
            dry_run=dry_run,
            keep_digest=keep_digest,
            finish=finish,
            on_progress=on_progress,
        )

    @documented_as(ConversationMethods.set_retention)
    async def set_retention(self, keep: timedelta, *, covers: Literal["all", "deleted"] = "all") -> RetentionRule:
        return await self._run(ConversationMethods.set_retention, keep, covers=covers)

    @documented_as(ConversationMethods.retention)
    async def retention(self) -> builtins.list[RetentionRule]:
        return await self._run(ConversationMethods.retention)

    @documented_as(ConversationMethods.unset_retention)
    async def unset_retention(self, *, covers: Literal["all", "deleted"] = "all") -> bool:
        return await self._run(ConversationMethods.unset_retention, covers=covers)

    @documented_as(ConversationMethods.list_retention_owners)
    async def list_retention_owners(self) -> builtins.list[str]:
        return await self._run(ConversationMethods.list_retention_owners)

    @documented_as(ConversationMethods.run_retention)
    async def run_retention(
        self,
        *,
        ids: Collection[str] | None = None,
        dry_run: bool = False,
        keep_digest: bool = False,
        finish: bool = True,
        on_progress: Callable[[int], object] | None = None,
    ) -> builtins.list[PurgeReceipt]:
        return await self._run(
            ConversationMethods.run_retention,
            ids=ids,
            dry_run=dry_run,
            keep_digest=keep_digest,
            finish=finish,
            on_progress=on_progress,
        )

    @documented_as(ConversationMethods.finish_purge)
    async def finish_purge(self) -> builtins.list[str]:
        return await self._run(ConversationMethods.finish_purge)
