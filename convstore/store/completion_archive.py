"""Reads, changes and hides the completions that were recorded for clients of the service."""

from __future__ import annotations

import builtins  # inside the class, `list` is a method
from functools import partial
from typing import Any

from convstore.conversations import stored_completions
from convstore.store.async_store import AsyncStore
from convstore.values.results import MessageRecord
from convstore.values.stored_completion import CompletionFilter, StoredCompletion


class CompletionArchive:
    """The recorded completions of an owner.

    Args:
        store: of the owner.
    """

    def __init__(self, store: AsyncStore) -> None:
        self._owner = store.owner
        self._transactions = store._engine.transactions
        self._threads = store._threads

    async def get(self, id: str) -> StoredCompletion | None:
        """Return the newest completion with an id; None if no completion has it."""
        work = partial(self._transactions.read, stored_completions.get_completion, self._owner, id)
        return await self._threads.run(work)

    async def list(self, wanted: CompletionFilter) -> tuple[builtins.list[StoredCompletion], bool]:
        """Return a page of completions, and whether more follow.

        Raises:
            InvalidInput: the completion before the first one does not exist.
        """
        work = partial(self._transactions.read, stored_completions.list_page, self._owner, wanted)
        return await self._threads.run(work)

    async def set_metadata(self, id: str, metadata: dict[str, Any]) -> StoredCompletion | None:
        """Replace the metadata of a completion, and return it; None if it does not exist."""
        change = stored_completions.change_metadata
        return await self._threads.run(partial(self._transactions.write_repeatable, change, self._owner, id, metadata))

    async def hide(self, id: str) -> bool:
        """Hide a completion from these methods; return False if it does not exist."""
        hide = stored_completions.hide_completion
        return await self._threads.run(partial(self._transactions.write, hide, self._owner, id))

    async def read_asked(
        self, id: str, after: int | None, limit: int, *, is_descending: bool
    ) -> tuple[builtins.list[MessageRecord], bool] | None:
        """Return some of the messages that a completion answers, and whether more follow; None if it does not exist.

        Args:
            after: the position of the message before the first one; None: from the beginning.
            is_descending: whether the last message comes first.
        """
        read = partial(stored_completions.read_asked, is_descending=is_descending)
        return await self._threads.run(partial(self._transactions.read, read, self._owner, id, after, limit))
