"""Put conversations in order: archive them, tag them, rate their replies."""

from __future__ import annotations

from collections.abc import Sequence

from convstore.db import drawer_rows
from convstore.db.ancestors import read_message_at
from convstore.db.conversation_rows import get_conversation
from convstore.db.conversation_writes import lock_row
from convstore.db.fork_sharing import find_message_home
from convstore.db.head_rows import read_state
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import InvalidInput
from convstore.values.identifiers import ConversationKey, Position
from convstore.values.results import Conversation, Rating, RatingValue


def archive(work: UnitOfWork, key: ConversationKey) -> Conversation:
    """Put a conversation into the archive, and return it."""
    if _lock(work, key).archived_at is None:
        drawer_rows.set_archived(work.connection, key, work.now)
    return get_conversation(work.connection, key)


def unarchive(work: UnitOfWork, key: ConversationKey) -> Conversation:
    """Take a conversation out of the archive, and return it."""
    _lock(work, key)
    drawer_rows.set_archived(work.connection, key, None)
    return get_conversation(work.connection, key)


def tag(work: UnitOfWork, key: ConversationKey, names: Sequence[str]) -> Conversation:
    """Add tags to a conversation, and return it."""
    _lock(work, key)
    drawer_rows.add_tags(work.connection, key, names)
    return get_conversation(work.connection, key)


def untag(work: UnitOfWork, key: ConversationKey, names: Sequence[str]) -> Conversation:
    """Remove tags from a conversation, and return it."""
    _lock(work, key)
    drawer_rows.remove_tags(work.connection, key, names)
    return get_conversation(work.connection, key)


def _lock(work: UnitOfWork, key: ConversationKey) -> Conversation:
    """Keep others from changing or deleting a conversation until the transaction ends, and return it."""
    lock_row(work.connection, key)
    return get_conversation(work.connection, key)


def count_tags(work: UnitOfWork, owner: str) -> dict[str, int]:
    """Return an owner's tags, each with the number of its conversations."""
    return drawer_rows.count_tags(work.connection, owner)


def rate(
    work: UnitOfWork, key: ConversationKey, position: Position, rating: RatingValue | None, note: str | None
) -> Rating | None:
    """Rate the reply at a position, or remove its rating.

    Raises:
        InvalidInput: the path has no such position, or the message there is no reply.
    """
    connection = work.connection
    lock_row(connection, key)
    state = read_state(connection, key)
    record = read_message_at(connection, state.lineage, state.head.seq, position)
    if record.message["role"] != "assistant":
        role = record.message["role"]
        raise InvalidInput(f"message {position} of conversation {key.id!r} is not a reply: its role is {role!r:.40}")
    home = find_message_home(connection, state.lineage, record.seq)
    if rating is None:
        drawer_rows.remove_rating(connection, home, record.seq)
        return None
    drawer_rows.write_rating(connection, home, record.seq, rating, note, work.now)
    return Rating(record.seq, rating, note, work.now)


def list_ratings(work: UnitOfWork, key: ConversationKey) -> list[Rating]:
    """Return the ratings of a conversation's replies, by `seq`."""
    return drawer_rows.read_ratings(work.connection, read_state(work.connection, key).lineage)
