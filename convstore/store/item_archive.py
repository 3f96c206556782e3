"""Adds, reads and deletes the items of conversations, for clients of the service."""

from __future__ import annotations

import builtins  # inside the class, `list` is a method
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from convstore.conversations import item_changes, item_lookup
from convstore.conversations.item_lookup import PlacedItem
from convstore.db.head_rows import read_head
from convstore.db.unit_of_work import UnitOfWork
from convstore.messages.conversation_items import Item
from convstore.store.async_store import AsyncStore
from convstore.values.identifiers import ConversationKey
from convstore.values.results import Conversation
from convstore.values.validation import check_existing_id


class ItemArchive:
    """The items of an owner's conversations.

    Args:
        store: of the owner.
    """

    def __init__(self, store: AsyncStore) -> None:
        self._store = store
        self._transactions = store._engine.transactions
        self._threads = store._threads
        self._runner = store._runner

    async def create(self, items: Sequence[Item], metadata: Mapping[str, Any]) -> Conversation:
        """Create a conversation with items.

        Raises:
            InvalidMessage: an item cannot be stored.
        """
        return await self._store.new(messages=item_changes.make_item_messages(items), metadata=metadata)

    async def add(
        self, conversation_id: str, items: Sequence[Item], *, wait: float = 0.0, is_repetition: bool = False
    ) -> builtins.list[PlacedItem]:
        """Add items at the head of a conversation, and return them.

        Args:
            wait: seconds to wait while a turn runs.
            is_repetition: whether the client says that it sends the request once more: then what it added before is
                not added again.

        Raises:
            ConversationNotFound: the owner has no such conversation.
            ConversationBusy: a turn still ran after that time.
            InvalidMessage: an item cannot be stored.
        """
        key = self._key(conversation_id)
        steps = item_changes.add_when_free(self._transactions, key, items, wait, is_repetition=is_repetition)
        return await self._runner.run(steps)

    async def list(
        self, conversation_id: str, after: str | None, limit: int, *, is_descending: bool
    ) -> tuple[builtins.list[PlacedItem], bool]:
        """Return a page of the items of a conversation's path, and whether more follow.

        Raises:
            ConversationNotFound: the owner has no such conversation.
            InvalidInput: the path has no item `after`.
        """
        read = partial(item_lookup.list_items, is_descending=is_descending)
        key = self._key(conversation_id)
        return await self._threads.run(partial(self._transactions.read, read, key, after, limit))

    async def get(self, conversation_id: str, id: str) -> PlacedItem | None:
        """Return an item of a conversation's path; None: it has none with this id.

        Raises:
            ConversationNotFound: the owner has no such conversation.
        """
        return await self._threads.run(partial(self._transactions.read, _find, self._key(conversation_id), id))

    async def delete(self, conversation_id: str, id: str, *, wait: float = 0.0) -> bool:
        """Leave an item out of a conversation's path; return False if it has none with this id.

        Args:
            wait: seconds to wait while a turn runs.

        Raises:
            ConversationNotFound: the owner has no such conversation.
            ConversationBusy: a turn still ran after that time.
        """
        key = self._key(conversation_id)
        return await self._runner.run(item_changes.delete_when_free(self._transactions, key, id, wait))

    def _key(self, conversation_id: str) -> ConversationKey:
        return ConversationKey(self._store.owner, check_existing_id(conversation_id))


def _find(work: UnitOfWork, key: ConversationKey, id: str) -> PlacedItem | None:
    head, lineage = read_head(work.connection, key)
    return item_lookup.find_item(work, lineage, head, id)
