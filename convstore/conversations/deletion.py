"""Deleting a conversation, and restoring it."""

from __future__ import annotations

from convstore.db.conversation_rows import get_conversation
from convstore.db.conversation_writes import delete_conversation, restore_conversation
from convstore.db.unit_of_work import UnitOfWork
from convstore.leases.claims import lock_conversation
from convstore.values.identifiers import ConversationKey
from convstore.values.results import Conversation


def delete(work: UnitOfWork, key: ConversationKey) -> None:
    """Mark a conversation as deleted; its rows stay for its forks and for `restore`."""
    lock_conversation(work, key)
    delete_conversation(work.connection, key, work.now)


def restore(work: UnitOfWork, key: ConversationKey) -> Conversation:
    """Restore a deleted conversation."""
    restore_conversation(work.connection, key)
    return get_conversation(work.connection, key)
