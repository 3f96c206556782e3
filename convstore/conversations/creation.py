"""Creating a conversation."""

from __future__ import annotations

from convstore.db.conversation_rows import get_conversation
from convstore.db.conversation_writes import NewConversation, insert_conversation
from convstore.db.lock_wait import limit_lock_wait
from convstore.db.message_writes import Place, insert_messages
from convstore.db.search_index import index_title
from convstore.db.unit_of_work import UnitOfWork
from convstore.values.identifiers import Seq
from convstore.values.results import Conversation


def create_conversation(work: UnitOfWork, new: NewConversation, *, limits_wait: bool = False) -> Conversation:
    """Create a conversation with its first messages; return the existing one if the same was created before.

    Args:
        limits_wait: wait only three seconds for another transaction that is creating this id or name (PostgreSQL).

    Raises:
        ConversationExists: the id is taken by a conversation with other content, or the name is taken.
    """
    if limits_wait:
        limit_lock_wait(work.connection)
    created = insert_conversation(work.connection, new, work.now)
    if created is None:
        return get_conversation(work.connection, new.key)
    index_title(work.connection, new.key, work.now, new.title, new.name)
    insert_messages(work, new.key, new.first, Place(Seq(1), after=None, turn=None))
    return created
