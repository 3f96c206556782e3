"""Finding conversations: by reference, as a list."""

from __future__ import annotations

from convstore.db import conversation_list, conversation_rows
from convstore.db.row_errors import conversation_not_found
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import AmbiguousReference, DamagedRow
from convstore.values.identifiers import ConversationKey
from convstore.values.list_filter import ListCursor, ListFilter
from convstore.values.results import Conversation


def find_conversation(work: UnitOfWork, owner: str, reference: str) -> Conversation:
    """Return the conversation with this id or name, or with an id that begins so.

    Raises:
        ConversationNotFound: no conversation matches, or it is deleted (`ConversationDeleted`).
        AmbiguousReference: several ids begin so.
    """
    found = conversation_rows.find_conversations(work.connection, owner, reference)
    if not found:
        raise conversation_not_found(work.connection, ConversationKey(owner, reference))
    if len(found) > 1:
        ids = ", ".join(conversation.id for conversation in found)
        raise AmbiguousReference(f"{reference!r} matches {ids}; type more of the id", found)
    return found[0]


def list_conversations(
    work: UnitOfWork, owner: str, limit: int | None, before: ListCursor | None, chosen: ListFilter
) -> tuple[list[Conversation], list[DamagedRow]]:
    """Return the conversations that a filter chooses, latest activity first: after `before`, or from the top.

    Those with a damaged row are returned as errors.
    """
    return conversation_list.list_conversations(work.connection, owner, limit, before, chosen)
