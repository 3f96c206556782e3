"""Changing what describes a conversation: its name, its title, its metadata and how requests are made."""

from __future__ import annotations

from convstore.db import conversation_writes
from convstore.db.conversation_writes import ConversationChange
from convstore.db.unit_of_work import UnitOfWork
from convstore.values.identifiers import ConversationKey
from convstore.values.results import Conversation


def change_conversation(work: UnitOfWork, key: ConversationKey, change: ConversationChange) -> Conversation:
    """Change a conversation's name, title, metadata, parameters or window, and return it."""
    return conversation_writes.change_conversation(work.connection, key, change, work.now)
