"""Finding conversations: by reference, as a list."""

from __future__ import annotations

from collections.abc import Sequence

from convstore.db import conversation_list, conversation_rows
from convstore.db.row_errors import conversation_not_found
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import AmbiguousReference, ConversationNotFound, DamagedRow
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
    return _take_only(found, reference)


def find_deleted(work: UnitOfWork, owner: str, reference: str) -> Conversation:
    """Return the deleted conversation with this id or name, or with an id that begins so.

    Raises:
        ConversationNotFound: no deleted conversation matches.
        AmbiguousReference: several have the name, or several ids begin so.
    """
    found = conversation_rows.find_deleted_conversations(work.connection, owner, reference)
    if not found:
        raise ConversationNotFound(f"no deleted conversation {reference!r}")
    return _take_only(found, reference)


def _take_only(found: Sequence[Conversation], reference: str) -> Conversation:
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
