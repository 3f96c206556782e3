"""The methods of a store that find conversations."""

from __future__ import annotations

import builtins  # inside the class, `list` is a method
from collections.abc import Callable
from copy import copy
from typing import Self

from convstore.conversations import lookup
from convstore.db.transactions import Transactions
from convstore.errors import ConversationNotFound, DamagedRow
from convstore.values.identifiers import ConversationKey
from convstore.values.results import Conversation
from convstore.values.validation import check_existing_id, check_limit, check_owner, is_key


class FindMethods:
    """Finding an owner's conversations.

    Args:
        transactions: run each unit of work in a transaction of its own, or in the caller's.
    """

    def __init__(self, transactions: Transactions, owner: str) -> None:
        self._transactions = transactions
        self._owner = owner

    @property
    def owner(self) -> str:
        """The owner of the conversations."""
        return self._owner

    def for_owner(self, owner: str) -> Self:
        """Return a view limited to one owner's conversations.

        It shares the connections with this object; closing one closes both.

        Raises:
            InvalidInput: not a valid owner.
        """
        view = copy(self)
        view._owner = check_owner(owner)
        return view

    def _key(self, conversation_id: str) -> ConversationKey:
        return ConversationKey(self._owner, check_existing_id(conversation_id))

    def get(self, reference: str) -> Conversation:
        """Return the conversation with this id or name, or with an id that begins so.

        Raises:
            ConversationNotFound: no conversation matches, or it is deleted (`ConversationDeleted`).
            AmbiguousReference: several ids begin so.
        """
        if not is_key(reference):
            raise ConversationNotFound(f"no conversation {reference!r:.80}")
        return self._transactions.read(lookup.find_conversation, self._owner, reference)

    def list(
        self,
        *,
        limit: int | None = 20,
        before: Conversation | None = None,
        deleted: bool = False,
        on_damaged: Callable[[DamagedRow], object] | None = None,
    ) -> builtins.list[Conversation]:
        """Return conversations, latest activity first.

        Args:
            limit: the maximum number of conversations; None: all.
            before: the last conversation of the previous page, to get the next one.
            deleted: return the deleted conversations instead of the others.
            on_damaged: called with an error for each conversation with a damaged row, and the others are returned.
                None: the first of these errors is raised.

        Raises:
            DamagedRow: a row is damaged, and `on_damaged` is None.
        """
        found, damaged = self._transactions.read(
            lookup.list_conversations, self._owner, check_limit(limit), before, deleted=deleted
        )
        for error in damaged:
            if on_damaged is None:
                raise error
            on_damaged(error)
        return found
